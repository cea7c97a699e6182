"""The promises of the project itself: layers of imports, the public surface, documents that agree with the code."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vecmeta as vm
from vecmeta.cli import program
from vecmeta.teaching import Teaching

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vecmeta"
README = (ROOT / "README.md").read_text("utf-8")

# A module may import from its own layer and those before it. The first prefix that fits decides.
LAYERS: list[tuple[str, int]] = [
    ("vecmeta.errors", 0),
    ("vecmeta.types", 0),
    ("vecmeta.where", 0),
    ("vecmeta.threads", 0),
    ("vecmeta.index.protocol", 1),
    ("vecmeta.encoders", 1),
    ("vecmeta.meta", 1),
    ("vecmeta.evaluate", 1),
    ("vecmeta.intake", 1),
    ("vecmeta.catalogue", 1),
    ("vecmeta.files", 1),
    ("vecmeta.index", 2),
    ("vecmeta.finetune", 2),
    ("vecmeta.contents", 2),
    ("vecmeta.judged", 2),
    ("vecmeta.folds", 2),
    ("vecmeta.trial", 2),
    ("vecmeta.serving", 2),
    ("vecmeta.reindex", 2),
    ("vecmeta.sample", 2),
    ("vecmeta.shelves", 2),
    ("vecmeta.bridge", 2),
    ("vecmeta.upkeep", 2),
    ("vecmeta.servings", 3),
    ("vecmeta.spaces", 3),
    ("vecmeta.compared", 3),
    ("vecmeta.labels", 3),
    ("vecmeta.teaching", 3),
    ("vecmeta.finetuning", 3),
    ("vecmeta.traffic", 3),
    ("vecmeta.jobs", 3),
    ("vecmeta.worker", 3),
    ("vecmeta.keys", 3),
    ("vecmeta.adaptation", 3),
    ("vecmeta.promotion", 3),
    ("vecmeta.searching", 3),
    ("vecmeta.writing", 3),
    ("vecmeta.collection", 3),
    ("vecmeta.places", 3),
    ("vecmeta.moving", 3),
    ("vecmeta.database", 3),
    ("vecmeta.client", 4),
    ("vecmeta.langchain", 4),
    ("vecmeta.demo", 4),
    ("vecmeta.pydocs", 4),
    ("vecmeta.openmoji", 4),
    ("vecmeta.bench", 4),
    ("vecmeta.cli", 4),
    ("vecmeta.__main__", 4),
    ("vecmeta", 3),
]
TORCH = (
    "vecmeta.encoders",
    "vecmeta.meta",
    "vecmeta.finetune",
    "vecmeta.finetuning",
    "vecmeta.adaptation",
)  # who may import torch, and then mostly inside functions


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def layer(module: str) -> int:
    return next(level for prefix, level in LAYERS if module == prefix or module.startswith(prefix + "."))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_imports_go_one_way(module: str, path: Path) -> None:
    for name in imports(path):
        if name.startswith("vecmeta"):
            assert layer(name) <= layer(module), f"{module} (layer {layer(module)}) imports {name} (layer {layer(name)})"
        if name.partition(".")[0] in ("torch", "transformers", "torchvision", "sentence_transformers", "timm", "peft"):
            assert module.startswith(TORCH), f"{module} imports {name}"
        assert not name.startswith("service"), f"{module} imports the service"


CORPORA = ("pydocs", "openmoji")  # sample data, which use the public names alone themselves


def service_modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "service").rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


@pytest.mark.parametrize(("module", "path"), list(service_modules()), ids=[name for name, _ in service_modules()])
def test_the_service_uses_public_names_alone(module: str, path: Path) -> None:
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "vecmeta":
            assert not rest or rest in (*vm.__all__, "__version__", *CORPORA), f"{module} imports {name}"
        assert top not in ("sqlalchemy", "faiss", "torch", "sqlite3"), f"{module} imports {name}"


def test_modules_stay_short() -> None:
    long = {
        name: lines
        for name, path in [*modules(), *service_modules()]
        if (lines := len(path.read_text("utf-8").splitlines())) > 350
    }
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    assert not [
        name for name, path in [*modules(), *service_modules()] if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]


def test_all_is_what_is_exported() -> None:
    public = {name for name in dir(vm) if not name.startswith("_") and not inspect.ismodule(getattr(vm, name))}
    assert public == set(vm.__all__)
    assert sorted(vm.__all__) == vm.__all__


def test_the_error_tree_is_drawn_as_it_is() -> None:
    from vecmeta import errors

    drawn = set(re.findall(r"^[│├└─ ]*([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE))
    real = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, vm.VecmetaError)}
    assert real <= drawn
    assert real == {
        name for name in vm.__all__ if inspect.isclass(getattr(vm, name)) and issubclass(getattr(vm, name), Exception)
    }


DESIGNED = {
    "open": {"index": "faiss", "device": "auto"},
    "Collection.add": {"progress": None},
    "Collection.add_vectors": {"metadata": None},
    "Collection.items": {"where": None, "after": None, "limit": 100},
    "Collection.search": {"k": 10, "where": None, "version": None, "feedback": None},
    "Collection.search_many": {"k": 10, "where": None, "version": None, "feedback": None},
    "Collection.recommend": {"k": 10, "where": None},
    "Collection.adapt": {"method": "maml", "dry_run": False, "progress": None},
    "Collection.embed": {"version": None},
}


@pytest.mark.parametrize("name", DESIGNED)
def test_keyword_defaults_are_as_promised(name: str) -> None:
    function = vm
    for part in name.split("."):
        function = getattr(function, part)
    parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    for key, default in DESIGNED[name].items():  # type: ignore[attr-defined]
        assert parameters[key].default == default


@pytest.mark.parametrize("owner", [vm.Database, vm.Collection, Teaching])
def test_public_methods_are_documented(owner: type) -> None:
    for name, member in vars(owner).items():
        if not name.startswith("_") and callable(member):
            assert inspect.getdoc(member), f"{owner.__name__}.{name}"
            assert f"{name}(" in README or name in ("forget",), f"{owner.__name__}.{name} is not in the README"


def test_importing_and_searching_need_no_torch() -> None:
    code = """
import sys, tempfile, numpy as np, vecmeta as vm
with vm.open(tempfile.mkdtemp()) as db:
    c = db.create("c", encoder="vectors", dim=3)
    c.add_vectors(["a", "b"], np.eye(3)[:2])
    assert c.search(np.eye(3)[0], 1)[0].id == "a"
print(sorted(m for m in ("torch", "transformers", "sklearn", "pyarrow", "typer", "rich") if m in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_two_commands_are_on_the_readmes_first_screen() -> None:
    first = "\n".join(README.splitlines()[:40])
    assert "make demo" in first
    assert "make test" in first


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert python_blocks()
    names: dict[str, object] = {}
    for block in python_blocks():
        exec(compile(block, "README.md", "exec"), names)


def test_the_readmes_commands_exist() -> None:
    help_of: dict[str, str] = {}
    for line in re.findall(r"^(?:\$ )?(?:\.venv/bin/)?vecmeta (.+)$", README, re.MULTILINE):
        words = line.split("#")[0].split()
        verb = words[:2] if words[0] in ("bench", "keys") else words[:1]
        key = " ".join(verb)
        if key not in help_of:
            done = CliRunner().invoke(program, [*verb, "--help"], terminal_width=120)
            assert done.exit_code == 0, f"README: vecmeta {line}: {done.output}"
            help_of[key] = done.output
        for option in re.findall(r"(--[a-z-]+)", line):
            assert option in help_of[key], f"README: vecmeta {key} has no {option}"
    assert len(help_of) >= 8


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == vm.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in changelog
    assert "Keep a Changelog" in changelog


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [name for names in (project["dependencies"], *extras) for name in names if not name.startswith("vecmeta[")]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    }
    for requirement in wanted:
        name = re.split(r"[><=~\[;]", requirement)[0].lower().replace("_", "-")
        assert name in pinned, f"{name} is not in constraints.txt"


def test_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert (ROOT / "LICENSE").read_text("utf-8").strip().startswith("Apache License")


def test_nothing_names_a_place_on_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    files = [ROOT / name for name in tracked] or [path for _, path in modules()]
    for path in files:
        if path.suffix in (".py", ".md", ".toml", ".txt", ".json") and path != Path(__file__) and path.exists():
            assert not re.search(r"/(work|root|home/\w+)/", path.read_text("utf-8")), f"{path} names a machine's path"
