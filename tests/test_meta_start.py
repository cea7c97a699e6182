"""The start: what it holds, how it is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecmeta.errors import InvalidConfig, StorageDamaged
from vecmeta.meta.start import MetaConfig, Start, initial_start, load_start


def test_the_shipped_start_says_where_it_comes_from() -> None:
    start = load_start()
    assert start.rates.shape == (3, start.config.inner_steps)
    assert start.provenance["trained_on"]
    assert start.provenance["validated_on"]
    assert not set(start.provenance["trained_on"]) & set(start.provenance["validated_on"])
    assert load_start().hash == start.hash


def test_round_trip_with_a_readable_file_beside(tmp_path: Path) -> None:
    start = replace(initial_start(MetaConfig(inner_steps=2)), provenance={"data": ["a"]})
    start.save(tmp_path / "new" / "mine.safetensors")
    again = load_start(tmp_path / "new" / "mine.safetensors")
    assert again.hash == start.hash
    assert (again.config, again.provenance) == (start.config, start.provenance)
    np.testing.assert_array_equal(again.rates, start.rates)
    readable = json.loads((tmp_path / "new" / "mine.json").read_text())
    assert readable["hash"] == start.hash
    assert readable["provenance"] == {"data": ["a"]}
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["mine.json", "mine.safetensors"]


def test_saving_twice_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        initial_start().save(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_hash_is_of_what_changes_an_adaptation() -> None:
    start = initial_start()
    assert replace(start, provenance={"other": 1}).hash == start.hash
    assert replace(start, scalars={**start.scalars, "b": np.asarray(0.5, np.float32)}).hash != start.hash
    assert replace(start, rates=start.rates + 1).hash != start.hash
    assert replace(start, config=MetaConfig(background_divisor=16)).hash != start.hash


def test_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    initial_start().save(path)
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(bytes(blob))
    with pytest.raises(StorageDamaged):
        load_start(path)
    path.write_bytes(b"")
    with pytest.raises(StorageDamaged):
        load_start(path)
    with pytest.raises(InvalidConfig, match="absent"):
        load_start(tmp_path / "absent.safetensors")


def test_bad_values() -> None:
    start = initial_start()
    with pytest.raises(InvalidConfig, match="finite"):
        replace(start, scalars={**start.scalars, "b": np.asarray(np.nan, np.float32)})
    with pytest.raises(InvalidConfig, match="finite"):
        replace(start, scalars={"c": np.asarray(0, np.float32)})
    with pytest.raises(InvalidConfig, match="rates"):
        Start(start.scalars, start.rates[:, :2], start.config)
    bad: tuple[dict[str, Any], ...] = (
        {"batch": 0}, {"batch": 1.5}, {"seed": True}, {"query_share": 1.5}, {"learning_rate": float("nan")}, {"unfed_weight": -1},
    )  # fmt: skip
    for wrong in bad:
        with pytest.raises(InvalidConfig, match=next(iter(wrong))):
            MetaConfig(**wrong)
