"""A corpus that every installation already has: the documentation of the Python functions and classes beside it.

Sources are parsed with `ast`, never imported. An item is one documented function, class or method:

- ``id``        its qualified name, ``json.dumps``; unique
- ``content``   its bare name and signature, then the first paragraph of its docstring. The module is left out, so that the
                module stays an honest label that nobody told the encoder
- ``metadata``  ``{"module": "json", "package": "json", "kind": "function" | "class" | "method"}``

The choice is deterministic on a given machine: the same files give the same items in the same order.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vecmeta.types import Item

# Packages that vecmeta's own dependencies bring along; whatever is missing is skipped. A fixed list, because the corpus
# should not change with every other thing that somebody installs beside it.
PACKAGES = (
    "click",
    "fsspec",
    "huggingface_hub",
    "jinja2",
    "joblib",
    "mpmath",
    "networkx",
    "numpy",
    "PIL",
    "rich",
    "scipy",
    "sklearn",
    "sqlalchemy",
    "sympy",
    "torch",
    "torchvision",
)

# Standard library: left out because it is a program, a table of data, or deprecated twice over.
_SKIPPED_STDLIB = {
    "antigravity",
    "distutils",
    "encodings",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "nturl2path",
    "pydoc_data",
    "sre_compile",
    "sre_constants",
    "sre_parse",
    "test",
    "this",
    "turtledemo",
}
_SKIPPED_PARTS = re.compile(
    r"(^|\.)(tests?|testing|conftest|test_\w+|\w+_tests?|vendor(ed)?|externals?|extern|examples?|benchmarks?)(\.|$)"
)

LIMIT = 3000
PER_MODULE = 40  # at most so many items of one module, so that none swamps its package
PER_PACKAGE = 160  # and of one package, so that none swamps the corpus
WELL_DOCUMENTED = 20  # a module of so many items is a concept that can be taught and measured; such modules come first
FILE_BYTES = 150_000  # larger files are generated or monolithic, and slow to parse
PACKAGE_BYTES = 450_000  # source parsed per package: about enough to fill PER_PACKAGE, and gathering stays within seconds
DOC_CHARS = (30, 300)  # shorter says nothing; longer is cut
SIGNATURE_CHARS = 120


def gather(limit: int = LIMIT) -> list[Item]:
    """At most ``limit`` items, module by module, well documented modules first, packages taking turns.

    Takes a few seconds for all of them, nearly all of it parsing. An unreadable or unparsable file is skipped: the corpus is
    whatever is there.
    """
    chosen: list[Item] = []
    seen_ids: set[str] = set()
    seen_docs: set[str] = set()
    # Turn by turn, each package's next module: a small limit still sees many packages, and modules stay whole.
    for modules in _take_turns(list(_packages())):
        fresh = []
        for item in modules:
            doc = str(item.content).split("\n", 1)[1].lower()
            if (
                item.id in seen_ids or doc in seen_docs
            ):  # copied docstrings would make any measure of retrieval a measure of copies
                continue
            seen_ids.add(item.id)
            seen_docs.add(doc)
            fresh.append(item)
        chosen += fresh[: limit - len(chosen)]
        if len(chosen) >= limit:
            break
    return chosen


def items_of_source(source: str, module: str) -> list[Item]:
    """The documented public functions, classes and methods of one file, in the order they stand.

    Raises:
        SyntaxError: the source is not Python; ValueError for NUL bytes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings are not our business
        tree = ast.parse(source)
    found: list[Item] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            init = next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
            found += _item(node, init, module, node.name, "class")
            if not node.name.startswith("_"):
                for member in node.body:
                    if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        found += _item(member, member, module, f"{node.name}.{member.name}", "method")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found += _item(node, node, module, node.name, "function")
    return found


def _item(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
    call: ast.FunctionDef | ast.AsyncFunctionDef | None,
    module: str,
    qualified: str,
    kind: str,
) -> list[Item]:
    """One item, or none when the name is private or says too little about itself."""
    if node.name.startswith("_"):
        return []
    paragraph = re.split(r"\n\s*\n", (ast.get_docstring(node) or "").strip(), maxsplit=1)[0]
    text = " ".join(paragraph.split())
    if len(text) < DOC_CHARS[0] or len(text.split()) < 5:
        return []
    content = f"{node.name}{_signature(call)}\n{_cut(text, DOC_CHARS[1])}"
    return [Item(f"{module}.{qualified}", content, {"module": module, "package": module.split(".", maxsplit=1)[0], "kind": kind})]


def _signature(call: ast.FunctionDef | ast.AsyncFunctionDef | None) -> str:
    """``(obj, *, indent=None)`` without annotations, self and cls; empty for a class that defines no ``__init__``."""
    if call is None:
        return ""
    for argument in ast.walk(call.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    text = ast.unparse(call.args)
    return f"({_cut(re.sub(r'^(self|cls)(, /)?(, |$)', '', text), SIGNATURE_CHARS)})"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _packages() -> Iterator[list[tuple[str, Path]]]:
    """For each package the (module label, file) pairs to parse, shallow ones first."""
    stdlib, site = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    for name in sorted(sys.stdlib_module_names):
        if not name.startswith("_") and name not in _SKIPPED_STDLIB:
            yield _files(stdlib, name)
    for name in PACKAGES:
        yield _files(site, name)


def _files(root: Path, package: str) -> list[tuple[str, Path]]:
    if (root / f"{package}.py").is_file():
        return [(package, root / f"{package}.py")]
    labelled = []
    for file in (root / package).rglob("*.py"):
        label = _label(file.relative_to(root))
        if label is not None:
            labelled.append((label, file))
    return sorted(labelled, key=lambda pair: (pair[0].count("."), _shuffled(pair[0]), pair[1].name))


def _label(relative: Path) -> str | None:
    """The public module that a file speaks for; None for tests, vendored code and private folders.

    ``sklearn/metrics/_ranking.py`` speaks for ``sklearn.metrics``.
    """
    parts = list(relative.with_suffix("").parts)
    if parts[-1].startswith("_"):  # __init__ too
        parts.pop()
    label = ".".join(parts)
    if not parts or any(part.startswith("_") for part in parts) or _SKIPPED_PARTS.search(label):
        return None
    return label


def _modules(files: Iterable[tuple[str, Path]]) -> dict[str, list[Item]]:
    """Parse until there is more than enough: module label -> its items."""
    modules: dict[str, list[Item]] = defaultdict(list)
    read = 0
    for label, file in files:
        try:
            size = file.stat().st_size
            if size > FILE_BYTES or read + size > PACKAGE_BYTES or len(modules[label]) > 2 * PER_MODULE:
                continue
            source = file.read_text("utf-8")
            if source.count('"""') < 2 * WELL_DOCUMENTED // 3:  # parsing takes the time: not worth it for a handful of docstrings
                continue
            read += size
            modules[label] += items_of_source(source, label)
        except (OSError, ValueError, SyntaxError, RecursionError):  # UnicodeDecodeError is a ValueError
            continue
    return modules


def _balanced(modules: dict[str, list[Item]]) -> list[list[Item]]:
    """Well documented modules first, each cut to PER_MODULE members, until PER_PACKAGE is reached."""
    ordered = sorted(modules.items(), key=lambda pair: (len(pair[1]) < WELL_DOCUMENTED, _shuffled(pair[0])))
    balanced, total = [], 0
    for _, items in ordered:
        cut = sorted(items, key=lambda item: _shuffled(item.id))[: min(PER_MODULE, PER_PACKAGE - total)]
        if cut:
            balanced.append(cut)
            total += len(cut)
    return balanced


def _take_turns(packages: Sequence[list[tuple[str, Path]]]) -> Iterator[list[Item]]:
    """First every package's first module, then every second one; well documented ones before all others.

    A package is parsed when its first turn comes: who wants few items does not wait for all of them.
    """
    parsed: dict[int, list[list[Item]]] = {}
    for rich in (True, False):
        turn, more = 0, True
        while more:
            more = False
            for number, files in enumerate(packages):
                if number not in parsed:
                    parsed[number] = _balanced(_modules(files))
                modules = [module for module in parsed[number] if (len(module) >= WELL_DOCUMENTED) is rich]
                yield from modules[turn : turn + 1]
                more |= len(modules) > turn + 1
            turn += 1


def _shuffled(text: str) -> str:
    """A stable order that has nothing to do with the alphabet."""
    return hashlib.sha256(text.encode()).hexdigest()
