"""Two runs of one benchmark side by side, when they come from one machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import vecmeta as vm
from vecmeta.bench.machine import machine

WORDS = ("processor", "cores", "memory_gib", "system")  # what the fingerprint is made of, for people
HEADER = ("machine", "processor", "architecture", "cores", "memory_gib", "system", "gpu")
# What a run was asked for, where it stands among its figures and not under "settings".
ASKED = ("adaptations", "connections", "count", "dim", "k", "repeats", "seed", "seeds", "tasks", "vectors")


def run(before: Path, after: Path) -> dict[str, Any]:
    """The figures that two files have in common.

    Args:
        before, after: files that `--out` wrote.

    Returns:
        ``benchmark``; ``machine`` in words; ``warnings``, what differs in versions, threads and settings, a sentence each; and ``rows``:
        figure, before, after, and ratio = after / before (None where before is 0).

    Raises:
        InvalidConfig: a file that no benchmark wrote; two benchmarks; two machines.
    """
    old, new = read(before), read(after)
    if old["benchmark"] != new["benchmark"]:
        raise vm.InvalidConfig(
            f"{before} is of bench {old['benchmark']} and {after} of bench {new['benchmark']}: only runs of one benchmark can be compared"
        )
    mine, theirs = header(old), header(new)
    if mine["machine"] != theirs["machine"]:
        raise vm.InvalidConfig(
            f"{before} was measured on {words(mine)}; {after} on {words(theirs)}: figures of different machines cannot be compared"
        )
    versions = [key for key in {**mine, **theirs} if key not in HEADER]
    warnings = [_differs(key, mine, theirs) for key in versions if mine.get(key) != theirs.get(key)]
    asked, wanted = _settings(old), _settings(new)
    warnings += [_differs(key, asked, wanted) for key in {**asked, **wanted} if asked.get(key) != wanted.get(key)]
    left, right = dict(_figures(old)), dict(_figures(new))
    rows = [
        {"figure": name, "before": left[name], "after": right[name], "ratio": right[name] / left[name] if left[name] else None}
        for name in left
        if name in right
    ]
    return {"benchmark": old["benchmark"], "machine": words(mine), "warnings": warnings, "rows": rows}


def read(path: Path) -> dict[str, Any]:
    """What a benchmark wrote. Raises InvalidConfig."""
    try:
        facts = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise vm.InvalidConfig(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise vm.InvalidConfig(f"{path} is not JSON: {error}") from error
    if not isinstance(facts, dict) or "benchmark" not in facts or "machine" not in header(facts):
        raise vm.InvalidConfig(
            f"{path} does not say which benchmark it is of and on what machine: write it with `vecmeta bench … --out`"
        )
    return facts


def header(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a run tells of its machine: an object of its own, or among the figures."""
    told = facts.get("machine")
    if isinstance(told, dict):
        return told
    return {key: facts[key] for key in (*machine(), "gpu") if key in facts}


def words(told: Mapping[str, Any]) -> str:
    """A machine in words: ``AMD EPYC (family 26, model 2), 2 cores, 8 GiB, Linux``."""
    processor, cores, memory, system = (told.get(key, "unknown") for key in WORDS)
    return f"{processor}, {cores} cores, {memory} GiB, {system}{f', {gpu}' if (gpu := told.get('gpu')) else ''}"


def _differs(key: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    return f"{key} differs: {mine.get(key, 'not told')} before, {theirs.get(key, 'not told')} after"


def _settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: facts[key] for key in ASKED if key in facts}, **facts.get("settings", {})}


def _figures(facts: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number with its path, but for header and settings."""
    told = header(facts)
    for key, value in facts.items():
        if key not in (*told, *ASKED, "machine", "settings", "benchmark"):
            yield from _leaves(key, value)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for name, inner in zip(_names(value), value, strict=True):
            yield from _leaves(f"{path}.{name}", inner)


def _names(rows: list[Any]) -> list[str]:
    """What rows are called: the texts in them where that tells them apart, so that a row more shifts nothing; else their place."""
    named = [" ".join(v for v in row.values() if isinstance(v, str)) if isinstance(row, dict) else "" for row in rows]
    return named if all(named) and len(set(named)) == len(named) else [str(place) for place in range(len(rows))]
