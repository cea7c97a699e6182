"""From an encoder and examples to a folder with a fine-tuned encoder: split, train, measure, write."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vecmeta.encoders import ImageEncoder, TextEncoder
from vecmeta.encoders.model_folder import FACTS, FORMAT, facts_of, model_files
from vecmeta.encoders.parts import encoded
from vecmeta.encoders.protocol import Encoder
from vecmeta.encoders.text import checked_text
from vecmeta.encoders.weights import file_sha256, files_sha256
from vecmeta.errors import AlreadyExists, EncoderUnavailable, InvalidConfig, StorageFull, StorageReadOnly, UndecodableContent
from vecmeta.finetune import image, text
from vecmeta.finetune.batches import Batches
from vecmeta.finetune.config import FinetuneConfig
from vecmeta.finetune.examples import Examples, checked, stratified
from vecmeta.finetune.learner import WEIGHTS, LastLayer, Learner
from vecmeta.finetune.likeness import importance
from vecmeta.finetune.measuring import exam
from vecmeta.finetune.training import Lesson, State, half_of, seeded, train
from vecmeta.meta.start import write_whole
from vecmeta.types import Content, Progress, Vectors


def finetune(
    encoder: Encoder, examples: Examples, out: Path, config: FinetuneConfig | None = None, *, unlabelled: Sequence[Content] = (),
    source: Examples | None = None, base: Vectors | None = None, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fine-tune an encoder and write it, with a record of it, into the folder `out`, which `open_encoder` reads.

    The folder is written whole or not at all. While it works a checkpoint lies at OUT.checkpoint; the same call after an interruption goes
    on from there to the same result, and a call that was finished already only reads its record.

    Args:
        encoder: of texts or pictures, opened by `vecmeta.encoders.open_encoder`; it is not changed.
        examples: labelled contents of its kind.
        unlabelled: contents that are to keep their relations (transfer "relations"), or whose distribution is that of the target
            ("representation").
        source: labelled contents of another domain, for the transfers "instances" and "representation".
        base: (n, dim), what the encoder makes of examples, unlabelled and source contents, one after the other, where that is known.
        progress: called with (stage, done, total); raise vecmeta.Cancelled in it to stop, the checkpoint stays.

    Returns:
        The record, which also lies in OUT/vecmeta.json.

    Raises:
        InvalidConfig: nothing to learn from, a transfer that lacks what it needs, an encoder that has no weights to train.
        UndecodableContent: an empty text, a picture that cannot be decoded; `read_examples` leaves both out.
        EncoderUnavailable: weights or package missing, or not even the smallest batch fits into memory.
        AlreadyExists: `out` is there and is not what this call makes.
    """
    config = (config or FinetuneConfig()).rated(encoder.modality)
    begin = time.perf_counter()
    _check(encoder, examples, unlabelled, source, config)
    given = {"parent": encoder.name, "config": asdict(config), "examples": examples.digest(), "unlabelled": _digest(unlabelled),
             "source": None if source is None else source.digest()}  # fmt: skip
    digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    if out.exists():
        facts = facts_of(out) if out.is_dir() else None
        if facts is not None and facts.get("digest") == digest:
            return facts
        raise AlreadyExists(f"{out} is there already and was not made from the same data and settings: give another place")
    _writable(out.parent)
    pool = [*examples.contents, *unlabelled, *(source.contents if source else ())]
    known = _known(encoder, pool, base, config, progress)
    split = stratified(examples, config.holdout, config.seed)
    if not any(len(rows) >= 2 for rows in split.learned.members):  # so few that nothing can be spared
        split = stratified(examples, 0.0, config.seed)
    with seeded(config.seed, 0, "cpu"):  # new weights of LoRA
        learner = _learner(encoder, pool, known, config)
    lesson = _lesson(split.learned, known, len(examples), len(unlabelled), source, config)
    measure = exam(examples, split.held_out, config.seed, encoder.modality)
    checkpoint = checkpoint_of(out)
    state = train(learner, lesson, config, measure, checkpoint, digest, progress)
    facts = {
        "format": FORMAT,
        "kind": encoder.modality,
        "dim": encoder.dim,
        "digest": digest,
        "parent": encoder.name,
        "config": asdict(config),
        "data": {**examples.about, "sha256": given["examples"], "examples": len(examples), "classes": len(examples.classes),
                 "held_out": int(split.held_out.sum()), "unlabelled": len(unlabelled),
                 "source": None if source is None else {**source.about, "sha256": given["source"], "examples": len(source)}},
        "scores": _scores(state, config),
        "notes": _notes(state, config, split.held_out),
        "seconds": round(time.perf_counter() - begin, 1),
        "torch": torch.__version__,
        "computed": {"device": learner.device, "type": str(half_of(config, learner.device) or torch.float32).removeprefix("torch.")},
    }  # fmt: skip
    _write(learner, encoder, out, facts)
    checkpoint.unlink(missing_ok=True)
    return facts_of(out) or facts


def last_layer(folder: Path) -> Vectors:
    """The layer (dim, dim) that mode "features" put after an encoder that had none: z = unit(x W'), x being what that encoder makes.

    Raises EncoderUnavailable when the folder holds no such encoder.
    """
    facts = facts_of(folder)
    if facts is None or facts["config"]["mode"] != "features":
        raise EncoderUnavailable(f"{folder} holds no encoder with a last layer of its own")
    weight = text.read_layer(folder) if facts["kind"] == "text" else image.read_layer(folder, facts["architecture"])
    return np.asarray(weight.numpy(), np.float32)


def checkpoint_of(out: Path) -> Path:
    """Where the checkpoint of a fine-tuning lies."""
    return out.parent / f"{out.name}.checkpoint"


def _check(
    encoder: Encoder, examples: Examples, unlabelled: Sequence[Content], source: Examples | None, config: FinetuneConfig
) -> None:
    if not isinstance(encoder, (TextEncoder, ImageEncoder)):
        raise InvalidConfig(f"the encoder {encoder.name} has no weights that could be fine-tuned: give 'text', 'image' or 'hf:…'")
    if isinstance(encoder, TextEncoder) and encoder.int8:
        raise InvalidConfig(
            f"{encoder.name} computes in whole numbers and has no gradients: fine-tune the encoder it was made of"
        )
    checked(examples)
    right = str if encoder.modality == "text" else (bytes, Path)
    for what, contents in (("example", examples.contents), ("unlabelled content", unlabelled),
                           ("source example", source.contents if source else ())):  # fmt: skip
        for row, content in enumerate(contents):
            if not isinstance(content, right):
                raise InvalidConfig(f"{what} {row} is a {type(content).__name__}, and {encoder.name} takes {encoder.modality}s")
            if isinstance(content, str):
                try:
                    checked_text(content, row)
                except UndecodableContent as error:
                    raise UndecodableContent(f"{what} {row}: {error}", row) from error
    if "instances" in config.transfer and source is None:
        raise InvalidConfig("transfer='instances' learns from source examples too, and none were given")
    if "representation" in config.transfer and source is None and not unlabelled:
        raise InvalidConfig(
            "transfer='representation' draws two distributions together: give source examples or unlabelled contents"
        )


def _known(
    encoder: Encoder, pool: Sequence[Content], base: Vectors | None, config: FinetuneConfig, progress: Progress | None
) -> Vectors:
    """What the untouched encoder makes of the pool, (n, dim); (0, dim) where nobody asks for it."""
    if base is not None:
        if np.shape(base) != (len(pool), encoder.dim):
            raise InvalidConfig(f"base holds a vector of each content, ({len(pool)}, {encoder.dim}), not {np.shape(base)}")
        return base
    needed = config.mode == "features" or {"relations", "instances"} & set(config.transfer)
    return encoded(encoder, pool if needed else (), "encoding", progress)


def _learner(encoder: Encoder, pool: Sequence[Any], base: Vectors, config: FinetuneConfig) -> Learner:
    if isinstance(encoder, TextEncoder):
        if config.mode == "features":
            return LastLayer(base, lambda folder, weight: text.write_with_layer(encoder, folder, weight))
        return text.TextLearner(encoder, pool, config)
    assert isinstance(encoder, ImageEncoder)
    if config.mode == "features":
        return LastLayer(base, lambda folder, weight: image.write_with_layer(encoder, folder, weight))
    return image.ImageLearner(encoder, pool, config)


def _lesson(
    learned: Examples, base: Vectors, examples: int, unlabelled: int, source: Examples | None, config: FinetuneConfig
) -> Lesson:
    free = np.arange(examples, examples + unlabelled)
    batches = None
    if source is not None:
        shift = examples + unlabelled
        count = shift + len(source)
        moved = _shifted(source, shift, count)
        weights = None
        if "instances" in config.transfer:
            weights = np.zeros(count)
            target = base[: examples + unlabelled]
            weights[shift:] = importance(base[shift:], target, config.seed)
        batches = Batches(moved, weights)
    teacher = base if "relations" in config.transfer else None
    return Lesson(Batches(learned), batches, free, teacher, int(sum(len(rows) for rows in learned.members)))


def _shifted(source: Examples, by: int, count: int) -> Examples:
    """Source examples as rows of the pool."""
    members, against = (tuple(rows + by for rows in listed) for listed in (source.members, source.against))
    asks = np.where(source.asks >= 0, source.asks + by, -1)
    return Examples((*[""] * (count - len(source)), *source.contents), source.classes, members, against, asks)


def _scores(state: State, config: FinetuneConfig) -> dict[str, Any]:
    if not state.history:
        return {"steps": state.step, "best_step": state.best_step}
    best = next(entry for entry in state.history if entry["step"] == state.best_step)
    base = {key: value for key, value in state.history[0].items() if key != "step"}
    now = {key: value for key, value in best.items() if key != "step"}
    return {"metric": config.metric, "base": base, "finetuned": now, "steps": state.step, "best_step": state.best_step,
            "history": state.history}  # fmt: skip


def _notes(state: State, config: FinetuneConfig, held_out: Any) -> list[str]:
    notes = []
    if state.pairs < config.pairs:
        notes.append(f"out of memory: batches were halved to {state.pairs} pairs, from {config.pairs}")
    if not held_out.any():
        notes.append("no class has three items, so nothing was held out: there was no early stop, and no score")
    elif state.best_step == 0:
        notes.append("no step found held-out examples better than the untouched encoder does: the weights are as they were")
    return notes


def _write(learner: Learner, encoder: Encoder, out: Path, facts: dict[str, Any]) -> None:
    """The folder, whole or not at all."""
    readable = encoder.name.partition("@")[0]
    readable = readable if readable.endswith("-ft") else f"{readable}-ft"
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        learner.save(temporary)
        if isinstance(encoder, ImageEncoder):
            sha256 = file_sha256(temporary / WEIGHTS)
            facts |= {"architecture": encoder.architecture, "ancestor": encoder.ancestor, "load": _how(encoder.architecture)}
        else:
            sha256 = files_sha256(temporary, model_files(temporary))
            facts |= {"load": "sentence_transformers.SentenceTransformer(FOLDER)"}
        facts |= {"name": f"{readable}@{sha256[:12]}", "sha256": sha256}
        write_whole(temporary / FACTS, (json.dumps(facts, indent=2) + "\n").encode())
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        temporary.rename(out)
    except OSError as error:
        kind = StorageFull if error.errno == 28 else StorageReadOnly  # ENOSPC
        raise kind(f"the encoder cannot be written to {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _how(architecture: str) -> str:
    if architecture == "efficientnet-lite0":
        return f"timm.create_model('tf_efficientnet_lite0', num_classes=1280), then load_state_dict of {WEIGHTS}"
    width = 512 if architecture == "resnet18" else 2048
    return f"torchvision.models.{architecture}(num_classes={width}), then load_state_dict of {WEIGHTS}"


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageReadOnly(f"the folder {folder} cannot be made: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageReadOnly(f"the folder {folder} cannot be written by this user")


def _digest(contents: Sequence[Content]) -> str:
    none = np.full(0, -1, np.int64)
    return Examples(tuple(contents), (), (), (), none).digest()
