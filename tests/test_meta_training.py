"""Meta-training: it lowers the loss, keeps the best, repeats itself, stops, and goes on where it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.metatoys import toy_notion, unit_rows
from vecmeta.errors import Cancelled, InvalidConfig, StorageDamaged
from vecmeta.meta import training
from vecmeta.meta.checkpoint import Checkpoint, load_checkpoint
from vecmeta.meta.episodes import statistics
from vecmeta.meta.fitting import check_start, fit, initial_start
from vecmeta.meta.methods import NAMES, method_of
from vecmeta.meta.start import MetaConfig, Start
from vecmeta.meta.tasks import Notion, Task, sample_task
from vecmeta.meta.threads import one_thread
from vecmeta.meta.training import (
    VALIDATION_SHOTS,
    Scores,
    average_precision,
    meta_train,
    outer_loss,
    score,
    tensors_of,
    together,
    validation_tasks,
)

TOY = MetaConfig(
    inner_steps=1,
    tasks=6,
    outer_steps=6,
    batch=2,
    ways_most=4,
    shots_most=4,
    rows_per_class=4,
    validate_every=2,
    learning_rate=0.05,
)
TRAINED = [name for name in NAMES if method_of(name).OUTER != "none"]


@pytest.fixture(scope="module")
def notions() -> list[Notion]:
    return [toy_notion()]


@pytest.fixture(scope="module")
def held_out() -> list[Notion]:
    return [toy_notion("held out", seed=5, classes=6)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def same(one: Start, other: Start) -> bool:
    return {name: value.tobytes() for name, value in one.tensors.items()} == {
        name: value.tobytes() for name, value in other.tensors.items()
    }


def loss_of(start: Start, tasks: Sequence[Task]) -> float:
    params = {name: torch.tensor(value) for name, value in start.tensors.items()}
    pairs = [tensors_of(task, start.config, np.random.default_rng(0)) for task in tasks]
    return float(np.mean([outer_loss(method_of(start.method), params, *pair, start.config).item() for pair in pairs]))


# -- what it learns


@pytest.mark.parametrize("method", TRAINED)
def test_the_loss_falls_on_fresh_tasks(method: str, notions: list[Notion]) -> None:
    config = replace(TOY, outer_steps=16, tasks=12)
    trained = meta_train(notions, config, method=method)
    check_start(trained)
    assert trained.method == method
    fresh = [sample_task(notions[0], config, np.random.default_rng(seed), ways=4, kind="concepts") for seed in range(900, 906)]
    assert loss_of(trained, fresh) < loss_of(initial_start(method, config), fresh) - 0.01
    moved = [name for name, value in trained.tensors.items() if (value != initial_start(method, config).tensors[name]).any()]
    assert len(moved) > len(trained.tensors) / 2


def test_it_repeats_itself_and_follows_the_seed(notions: list[Notion], held_out: list[Notion]) -> None:
    one, again = (meta_train(notions, TOY, validation=held_out) for _ in range(2))
    assert one.hash == again.hash
    assert one.provenance == again.provenance
    assert not same(one, initial_start(config=TOY))
    assert not same(one, meta_train(notions, replace(TOY, seed=1), validation=held_out))


def test_the_record_says_what_happened(notions: list[Notion], held_out: list[Notion]) -> None:
    seen: list[tuple[str, int, int]] = []
    start = meta_train(
        notions, TOY, lambda *now: seen.append(now), method="protonet", validation=held_out, provenance={"command": "by hand"}
    )
    assert [now for now in seen if now[0] == "tasks"] == [("tasks", done, 6) for done in range(1, 7)]
    steps = [now for now in seen if now[0] != "tasks"]
    assert [now[1:] for now in steps] == [(done, 6) for done in range(1, 7)]
    assert all(now[0].startswith("meta-train: loss ") for now in steps)
    assert ["validation" in now[0] for now in steps] == [False] + [True] * 5
    about = start.provenance
    assert about["command"] == "by hand"
    assert (about["trained_on"], about["validated_on"]) == (["toy"], ["held out"])
    assert [look["step"] for look in about["validation"]] == [2, 4, 6]
    assert set(about["validation"][0]) == {"step", "fed", "mixed", "unfed"}
    assert about["best_step"] in (2, 4, 6)
    assert len(about["outer_loss"]) == 6
    assert about["familiar"]["tasks"] == 6


def test_without_validation_the_last_start_is_returned(notions: list[Notion], monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[bytes] = []
    update = training._State.update

    def watched(self: Any, *args: Any) -> None:
        update(self, *args)
        states.append(self.start().hash.encode())

    monkeypatch.setattr(training._State, "update", watched)
    start = meta_train(notions, TOY, method="ridge")
    assert start.hash.encode() == states[-1]
    assert start.provenance["best_step"] == 6
    assert start.provenance["validation"] == []


# -- validation and patience


def scored(monkeypatch: pytest.MonkeyPatch, values: Sequence[float]) -> list[Start]:
    """Looks that see these scores, one after the other, and what was looked at."""
    seen: list[Start] = []

    def prescribed(start: Start, tasks: Sequence[Task], device: str) -> Scores:
        seen.append(start)
        return Scores(0.0, values[len(seen) - 1], 0.0)

    monkeypatch.setattr(training, "score", prescribed)
    return seen


def test_the_best_look_is_returned(notions: list[Notion], held_out: list[Notion], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scored(monkeypatch, [0.1, 0.3, 0.2])
    start = meta_train(notions, TOY, method="protonet", validation=held_out)
    assert len(seen) == 3
    assert same(start, seen[1])
    assert not same(start, seen[2])
    assert start.provenance["best_step"] == 4


def test_patience_ends_the_training(notions: list[Notion], held_out: list[Notion], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scored(monkeypatch, [0.1, 0.3, 0.2, 0.3, 0.9])
    start = meta_train(notions, replace(TOY, outer_steps=60, patience=2), method="protonet", validation=held_out)
    assert len(seen) == 4  # as good as before is not better
    assert same(start, seen[1])
    assert [look["step"] for look in start.provenance["validation"]] == [2, 4, 6, 8]


def test_untaught_losses_count_three_times() -> None:
    assert Scores(0.3, 0.2, 0.1).value == pytest.approx(0.6)
    assert Scores(0.3, 0.2, -0.1).value == pytest.approx(0.5 - 0.3)


def test_validation_tasks_are_the_same_every_time(held_out: list[Notion]) -> None:
    one, again = (validation_tasks(held_out[0], TOY) for _ in range(2))
    assert len(one) == len(VALIDATION_SHOTS)
    for task, same_task in zip(one, again, strict=True):
        np.testing.assert_array_equal(task.x, same_task.x)
        np.testing.assert_array_equal(task.support.y, same_task.support.y)
        assert task.fed == 3  # half of six classes
        assert task.anchors.all()


def test_scores_against_fitting_by_hand(held_out: list[Notion]) -> None:
    tasks = validation_tasks(held_out[0], TOY)[:2]
    start = initial_start("protonet", TOY)
    gains: list[list[float]] = []
    for task in tasks:
        z = fit(start, task.support, statistics(task.collection, len(task.collection))).project(task.x)
        gains.append([])
        for rows in (task.taught, np.ones(len(z), bool), ~task.taught):
            quality = [plain_map(part[rows], task.y[rows]) for part in (z, task.x)]
            gains[-1].append(quality[0] - quality[1])
    got = score(start, tasks)
    np.testing.assert_allclose(np.array([got.fed, got.mixed, got.unfed]), np.mean(gains, 0), atol=1e-9)
    with pytest.raises(InvalidConfig, match="held-out"):
        score(start, [])


def plain_map(z: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    values = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        hits = [bool((y[i] * y[j]).sum() > 0) for j in sorted(others, key=lambda j: -float(z[i] @ z[j]))]
        if any(hits):
            r = sum(hits)
            values.append(sum(sum(hits[: rank + 1]) / (rank + 1) for rank in range(r) if hits[rank]) / r)
    return float(np.mean(values))


def test_average_precision_by_hand() -> None:
    z = unit_rows(np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1]]))
    y = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], np.float32)
    assert average_precision(z, y) == 0  # R = 1, and the nearest of both is the stranger
    assert average_precision(z, np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)) == 1
    assert np.isnan(average_precision(z, np.eye(4, dtype=np.float32)))


# -- stopping and going on


def stop_at(stage: str, step: int) -> Callable[[str, int, int], None]:
    def progress(now: str, done: int, total: int) -> None:
        if now.startswith(stage) and done == step:
            raise Cancelled

    return progress


@pytest.mark.parametrize("stage", ["tasks", "meta-train"])
def test_a_training_can_be_cancelled(stage: str, notions: list[Notion]) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(Cancelled):
        meta_train(notions, TOY, stop_at(stage, 2))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("method", "validated", "step"),
    [("maml", True, 1), ("maml", True, 3), ("maml", True, 5), ("maml", False, 5), ("reptile", False, 3), ("cnp", True, 3)],
)
def test_going_on_is_as_though_nothing_had_happened(
    method: str, validated: bool, step: int, notions: list[Notion], held_out: list[Notion], tmp_path: Path
) -> None:
    more: dict[str, Any] = {"method": method, "validation": held_out if validated else []}
    whole = meta_train(notions, TOY, **more)
    path = tmp_path / "new" / "state"
    with pytest.raises(Cancelled):
        meta_train(notions, TOY, stop_at("meta-train", step), checkpoint=path, **more)
    assert path.exists() == (step > 1)
    steps: list[int] = []
    again = meta_train(
        notions, TOY, lambda stage, done, _: steps.append(done) if stage != "tasks" else None, checkpoint=path, **more
    )
    assert steps[0] == step // 2 * 2 + 1
    assert same(whole, again)
    assert whole.provenance == again.provenance
    assert path.exists()  # who saves the start deletes it: a kill between the two must not lose the training


def test_more_threads_outside_change_nothing(notions: list[Notion], held_out: list[Notion]) -> None:
    """A look at the held-out notions adapts within the training, and must leave it on its one thread."""
    seen = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        inside: list[int] = []
        seen.append(meta_train(notions, TOY, lambda *_, now=inside: now.append(torch.get_num_threads()), validation=held_out))
        assert set(inside) == {1}
        assert torch.get_num_threads() == threads
    assert same(*seen)


def test_a_checkpoint_of_another_training_is_an_error(notions: list[Notion], held_out: list[Notion], tmp_path: Path) -> None:
    path = tmp_path / "state"

    def begin(found: Sequence[Notion], config: MetaConfig, method: str, validation: Sequence[Notion]) -> Start:
        return meta_train(found, config, stop_at("meta-train", 3), method=method, validation=validation, checkpoint=path)

    with pytest.raises(Cancelled):
        begin(notions, TOY, "protonet", held_out)
    whole = path.read_bytes()
    classes = notions[0].classes
    merged = Notion("toy", notions[0].x, [np.concatenate((classes[0], classes[1])), *classes[2:]])
    other: tuple[Any, ...] = (
        ([toy_notion(seed=3)], TOY, "protonet", held_out),
        ([replace(notions[0], name="renamed")], TOY, "protonet", held_out),
        ([merged], TOY, "protonet", held_out),  # the same rows in the same order, in other classes
        ([*notions, *held_out], TOY, "protonet", []),
        (notions, replace(TOY, batch=3), "protonet", held_out),
        (notions, TOY, "ridge", held_out),
        (notions, TOY, "protonet", []),
    )
    for wrong in other:
        with pytest.raises(InvalidConfig, match="other data"):
            begin(*wrong)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(StorageDamaged):
        begin(notions, TOY, "protonet", held_out)


def test_a_checkpoint_keeps_its_groups(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", "d") is None
    now = {"a": np.ones((2, 3), np.float32), "b": np.array(4, np.float32)}
    tensors: dict[str, Any] = {"now": now, "best": {"a": np.zeros(1, np.float32)}}
    Checkpoint("d", tensors, {"step": 3, "losses": [0.1 + 0.2], "best_value": -np.inf}).save(tmp_path / "a" / "state")
    found = load_checkpoint(tmp_path / "a" / "state", "d")
    assert found is not None
    assert found.facts == {"step": 3, "losses": [0.1 + 0.2], "best_value": -np.inf}
    assert {group: set(values) for group, values in found.tensors.items()} == {"now": {"a", "b"}, "best": {"a"}}
    assert found.tensors["now"]["b"].shape == ()
    np.testing.assert_array_equal(found.tensors["now"]["a"], tensors["now"]["a"])


# -- what it is given


def test_notions_of_two_dimensions_mix(notions: list[Notion], monkeypatch: pytest.MonkeyPatch) -> None:
    wide = toy_notion("wide", dim=24)
    dimensions: list[int] = []
    batch = training.together

    def watched(tasks: Any) -> Any:
        found = {len(support.mean) for support, _ in tasks}
        assert len(found) == 1
        dimensions.extend(found)
        return batch(tasks)

    monkeypatch.setattr(training, "together", watched)
    start = meta_train([*notions, wide], replace(TOY, batch=4, outer_steps=10), method="protonet")
    assert set(dimensions) == {16, 24}
    assert start.provenance["trained_on"] == ["toy", "wide"]


@pytest.mark.parametrize(("queries", "pairs"), [(0.5, 0.5), (1, 0), (0, 1)])
def test_every_mixture_of_kinds_can_be_trained_on(queries: float, pairs: float, notions: list[Notion]) -> None:
    config = replace(TOY, query_share=queries, pair_share=pairs, outer_steps=2)
    for method in ("maml", "logistic"):
        start = meta_train(notions, config, method=method)
        assert np.isfinite(start.provenance["outer_loss"]).all()
        assert not same(start, initial_start(method, config))


@pytest.mark.parametrize("method", TRAINED)
def test_a_single_task_is_enough(method: str, notions: list[Notion]) -> None:
    start = meta_train(notions, replace(TOY, tasks=1, batch=1, outer_steps=1), method=method)
    assert np.isfinite(start.provenance["familiar"]["limit"])


@pytest.mark.parametrize("method", TRAINED)
def test_uneven_batches_keep_every_number_finite(method: str) -> None:
    """Padding must not reach a gradient: it once did, through the root of a weight of zero."""
    notions = [toy_notion(), toy_notion("large", classes=40, seed=2)]
    start = meta_train(notions, replace(TOY, batch=4, outer_steps=3), method=method)
    assert all(np.isfinite(value).all() for value in start.tensors.values())


def test_what_cannot_be_trained() -> None:
    with pytest.raises(InvalidConfig, match="notion"):
        meta_train([], TOY)
    for method in ("linear", "metric", "rocchio"):
        with pytest.raises(InvalidConfig, match="nothing that could be meta-trained"):
            meta_train([toy_notion()], TOY, method=method)
    with pytest.raises(InvalidConfig, match="unknown method"):
        meta_train([toy_notion()], TOY, method="nothing")


def test_a_batch_pads_tests_with_rows_that_are_not_there(notions: list[Notion]) -> None:
    tasks = [sample_task(notions[0], TOY, np.random.default_rng(seed), ways=ways) for seed, ways in ((0, 1), (1, 4))]
    pairs = [tensors_of(task, TOY, np.random.default_rng(0)) for task in tasks]
    _, batch = together(pairs)
    for place, (task, (_, test)) in enumerate(zip(tasks, pairs, strict=True)):
        rows, columns = task.y.shape
        np.testing.assert_array_equal(batch.x[place, :rows], task.x)
        np.testing.assert_array_equal(batch.y[place, :rows, :columns], task.y)
        np.testing.assert_array_equal(batch.taught[place, :rows], task.taught)
        np.testing.assert_array_equal(batch.anchors[place, :rows], task.anchors)
        assert batch.rows[place].sum() == rows == test.rows.sum()
        assert batch.y[place].sum() == task.y.sum()


# -- one thread


def test_one_thread_nests_and_restores() -> None:
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ValueError, match="within"), one_thread(), one_thread():
        raise ValueError("within")
    assert torch.get_num_threads() == 2


def test_two_threads_do_not_take_the_others_one_for_what_was_there() -> None:
    torch.set_num_threads(2)
    inside, leave, seen = threading.Event(), threading.Event(), list[int]()

    def beside() -> None:
        with one_thread():
            inside.set()
            leave.wait(10)
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    other = threading.Thread(target=beside)
    other.start()
    assert inside.wait(10)
    with one_thread():
        assert torch.get_num_threads() == 1
        leave.set()
        other.join(10)
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    assert seen == [1, 2]
