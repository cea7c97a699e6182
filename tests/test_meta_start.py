"""The start: what it holds, how it is kept, and the config that shaped it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecmeta.errors import InvalidConfig, StorageDamaged
from vecmeta.meta.fitting import check_start, initial_start
from vecmeta.meta.head import pack
from vecmeta.meta.methods import NAMES, method_of
from vecmeta.meta.start import FORMAT, STARTS, MetaConfig, Start, load_start, write_whole

SHIPPED = [name for name in NAMES if method_of(name).OUTER != "none"]  # the others begin with nothing


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_starts_say_where_they_come_from(name: str) -> None:
    start = load_start(method=name)
    check_start(start)
    assert start.provenance["trained_on"]
    assert start.provenance["validated_on"]
    assert not set(start.provenance["trained_on"]) & set(start.provenance["validated_on"])
    assert load_start(method=name).hash == start.hash
    assert json.loads((STARTS / f"{name}.json").read_text())["hash"] == start.hash
    assert set(start.provenance["familiar"]) == {"mean", "covariance", "limit", "tasks"}


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_with_a_readable_file_beside(name: str, tmp_path: Path) -> None:
    start = replace(initial_start(name, MetaConfig(inner_steps=2)), provenance={"data": ["a"]})
    start.save(tmp_path / "new" / "mine.safetensors")
    again = load_start(tmp_path / "new" / "mine.safetensors", name)
    assert again.hash == start.hash
    assert (again.method, again.config, again.provenance) == (name, start.config, start.provenance)
    assert set(again.tensors) == set(start.tensors)
    for key, value in start.tensors.items():
        np.testing.assert_array_equal(again.tensors[key], value)
        assert again.tensors[key].shape == value.shape
    readable = json.loads((tmp_path / "new" / "mine.json").read_text())
    assert readable["hash"] == start.hash
    assert readable["method"] == name
    assert readable["provenance"] == {"data": ["a"]}
    assert readable["config"] == asdict(start.config)
    assert set(readable["numbers"]) <= set(start.tensors)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["mine.json", "mine.safetensors"]


def test_saving_twice_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        initial_start().save(tmp_path / f"{name}.safetensors")
    for end in ("safetensors", "json"):
        assert (tmp_path / f"a.{end}").read_bytes() == (tmp_path / f"b.{end}").read_bytes()


def test_the_hash_is_of_what_changes_an_adaptation() -> None:
    start = initial_start()
    assert replace(start, provenance={"other": 1}).hash == start.hash
    assert replace(start, tensors={**start.tensors, "b": np.asarray(0.5, np.float32)}).hash != start.hash
    assert replace(start, tensors={**start.tensors, "rates": start.tensors["rates"] + 1}).hash != start.hash
    assert replace(start, config=MetaConfig(inner_rows=100)).hash != start.hash
    hashes = {initial_start(name).hash for name in NAMES}
    assert len(hashes) == len(NAMES)  # the same numbers for another method are another start


def test_tensors_are_copies_that_nobody_writes_to() -> None:
    mine = np.zeros(3)
    start = Start("maml", {"a": mine})  # type: ignore[dict-item]  # it is made float32
    mine[0] = 1
    assert start.tensors["a"].dtype == np.float32
    assert start.tensors["a"][0] == 0
    with pytest.raises(ValueError, match="read-only"):
        start.tensors["a"][0] = 1


def test_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    initial_start().save(path)
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    for wrong in (bytes(blob), b"", b"nothing of the kind" * 9, initial_start().hash.encode()):
        path.write_bytes(wrong)
        with pytest.raises(StorageDamaged):
            load_start(path)
    config = asdict(MetaConfig())
    for about in (
        {"method": "maml", "config": config},  # no provenance
        {"method": "maml", "config": {**config, "batch": 0}, "provenance": {}},
        {"method": "maml", "config": {**config, "batches": 1}, "provenance": {}},
        {"method": "maml", "config": 3, "provenance": {}},
    ):
        path.write_bytes(pack({}, {"format": FORMAT, **about}))
        with pytest.raises(StorageDamaged, match="incomplete"):
            load_start(path)


def test_absent_and_wrong_starts(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="absent"):
        load_start(tmp_path / "absent.safetensors")
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load_start(tmp_path)
    initial_start("protonet").save(tmp_path / "mine.safetensors")
    with pytest.raises(InvalidConfig, match="'protonet', not for 'maml'"):
        load_start(tmp_path / "mine.safetensors")
    with pytest.raises(InvalidConfig, match="known: maml"):
        initial_start("gradient descent")
    for name in ("", None, 3):
        with pytest.raises(InvalidConfig, match="unknown method"):
            method_of(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_start_that_its_method_cannot_read(name: str) -> None:
    start = initial_start(name)
    check_start(start)
    with pytest.raises(InvalidConfig, match="extra"):
        check_start(replace(start, tensors={**start.tensors, "extra": np.zeros(2, np.float32)}))
    for key in start.tensors:
        with pytest.raises(InvalidConfig, match=key):
            check_start(replace(start, tensors={k: v for k, v in start.tensors.items() if k != key}))
        with pytest.raises(InvalidConfig, match=key):
            check_start(replace(start, tensors={**start.tensors, key: np.zeros((2, 2, 2), np.float32)}))
        for number in (np.nan, np.inf):
            with pytest.raises(InvalidConfig, match=f"{key} of a start holds NaN or infinity"):
                replace(start, tensors={**start.tensors, key: np.full_like(start.tensors[key], number)})


def test_a_start_has_a_rate_for_every_step() -> None:
    with pytest.raises(InvalidConfig, match="rates"):
        check_start(replace(initial_start("maml", MetaConfig(inner_steps=2)), config=MetaConfig(inner_steps=3)))


@pytest.mark.parametrize("entry", fields(MetaConfig), ids=lambda entry: str(entry.name))
def test_every_field_of_a_config_is_checked(entry: Any) -> None:
    wrong: list[Any] = [True, "1", None, float("nan"), float("inf"), -1, -0.5]
    if entry.type == "int":
        wrong += [1.5, 2.0]
    least = {"seed": 0, "learning_rate": 0, "unfed_weight": 0, "query_share": 0, "pair_share": 0}
    least |= {"ways_most": 2, "shots_most": 2, "rows_per_class": 2}
    low = least.get(entry.name, 1)
    wrong.append(low - 1)
    if entry.name in ("query_share", "pair_share"):
        wrong.append(1.5)
    for value in wrong:
        with pytest.raises(InvalidConfig, match=entry.name):
            MetaConfig(**{entry.name: value})
    assert getattr(MetaConfig(**{entry.name: low}), entry.name) == low


def test_shares_are_shares() -> None:
    with pytest.raises(InvalidConfig, match="shares"):
        MetaConfig(query_share=0.6, pair_share=0.5)
    MetaConfig(query_share=1, pair_share=0)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_whole(path, b"old")

    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("vecmeta.meta.start.os.fsync", full)
    with pytest.raises(OSError, match="space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]  # no leftovers
    assert path.stat().st_mode & 0o777 == 0o644
