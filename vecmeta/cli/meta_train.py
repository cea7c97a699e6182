"""The verb that trains a start on data of one's own: meta-train."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vecmeta.cli import render
from vecmeta.cli.app import note, opened, print_json, shared
from vecmeta.errors import Cancelled, InvalidConfig

if TYPE_CHECKING:
    from vecmeta import Collection
    from vecmeta.meta.sets import EncoderFor, LabelledSet, SupportsEncode
    from vecmeta.meta.tasks import Notion
    from vecmeta.types import Progress

_AFTER = "After an interruption"
_PAGE = 1000  # items of a collection that are read at a time


def meta_train(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the start is written (safetensors), and a .json.")],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--sets",
            metavar="FILE...",
            help="Data sets to learn from: .parquet, .jsonl, .npz. Each label column is a notion of similarity; FILE:COLUMN,COLUMN "
            "names them. Default: every column with four classes of twelve rows.",
        ),
    ] = None,
    collections: Annotated[
        list[str] | None,
        typer.Option("--from-collection", metavar="NAME...", help="Collections to learn from: their metadata are the labels."),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="KEY...", help="Only these metadata keys of the collections.")
    ] = None,
    validate: Annotated[
        list[str] | None,
        typer.Option(
            "--validate",
            metavar="FILE...",
            help="Data sets to choose the best step by. Default: a fifth of the notions is held out.",
        ),
    ] = None,
    unsupervised: Annotated[bool, typer.Option("--unsupervised", help="Ignore the labels: learn from clusters instead.")] = False,
    partitions: Annotated[
        int, typer.Option(min=0, help="Beside the labels, also learn from so many partitions of each set into clusters.")
    ] = 0,
    method: Annotated[
        str, typer.Option(help="Whose start: maml, fomaml, anil, reptile, protonet, ridge, logistic, cnp.")
    ] = "maml",
    encoder: Annotated[
        str, typer.Option(help="What encodes contents, as for create; contents of the other kind are encoded by text or image.")
    ] = "text",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Most steps of the outer loop. Default: 400.", show_default=False)
    ] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Tasks to practise on. Default: 400.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of tasks, initial values, and what is held out.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Most rows of a set that are used.")] = 8000,
    cache: Annotated[Path | None, typer.Option("--cache", metavar="DIR", help="Keep encodings here for the next time.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from a checkpoint, or begin anew.", rich_help_panel=_AFTER)
    ] = True,
) -> None:
    """Meta-train a start on data of your own: labelled files, the metadata of collections, or no labels at all.

    Ctrl-C keeps a checkpoint beside the start; the same command goes on from there, to the same result.
    """
    if not sets and not collections:
        raise typer.BadParameter("nothing to learn from: give --sets or --from-collection", param_hint="--sets")
    if columns and (not collections or unsupervised):
        why = "--unsupervised uses no labels" if unsupervised else "it needs --from-collection; of a file: --sets FILE:COLUMN"
        raise typer.BadParameter(why, param_hint="--column")
    from vecmeta.adaptation import torch_device
    from vecmeta.meta.recipe import check_request, checkpoint_of, make_start
    from vecmeta.meta.start import MetaConfig

    given = {"outer_steps": steps, "tasks": tasks}
    config = MetaConfig(seed=seed, **{name: value for name, value in given.items() if value is not None})
    check_request(method, out)
    begin = time.perf_counter()
    try:
        with render.renewed_progress() as progress:
            files = functools.partial(_files, _encoders(encoder, shared(context).device), limit, cache, progress)
            sources = [*files(sets or [], unsupervised, seed)]
            if collections:
                with opened(context) as database:
                    own = [_from_collection(database.collection(name), limit, progress) for name in collections]
                sources += _own_notions(own, columns, unsupervised, seed)
            if partitions and not unsupervised:
                sources = [(found, [*notions, *_clustered(found, seed, partitions)]) for found, notions in sources]
            validation = None if not validate else [*files(validate, False, seed)]
            facts = make_start(
                [notion for source in sources for notion in source[1]],
                out,
                config,
                method=method,
                validation=None if validation is None else [notion for source in validation for notion in source[1]],
                resume=resume,
                provenance={
                    "unsupervised": unsupervised,
                    "partitions": partitions,
                    "data": [_about(*source) for source in sources],
                    "validation_data": [_about(*source) for source in validation or ()],
                },
                seconds={"reading": round(time.perf_counter() - begin, 1)},
                device=torch_device(shared(context).device),
                progress=progress,
            )
    except OSError as error:
        raise InvalidConfig(f"{error.filename or out}: {error.strerror or error}") from None
    except (KeyboardInterrupt, Cancelled):
        kept = checkpoint_of(out)
        note(f"stopped; {f'the same command goes on from {kept}' if kept.exists() else 'nothing half-written remains'}")
        raise typer.Exit(130) from None
    if shared(context).json:
        print_json(facts)
    else:
        _show(facts)


# -- sources


def _encoders(spec: str, device: str) -> EncoderFor:
    """What --encoder names encodes contents of its kind, and the default one of the other kind the others."""
    from vecmeta.encoders import open_encoder

    @functools.cache
    def encoder_for(kind: str) -> SupportsEncode:
        chosen = open_encoder(spec, device=device)
        return chosen if chosen.modality == kind else open_encoder(kind, device=device)

    return encoder_for


def _files(
    encoder_for: EncoderFor,
    limit: int,
    cache: Path | None,
    progress: Progress,
    specs: Sequence[str],
    unsupervised: bool,
    seed: int,
) -> Iterator[tuple[LabelledSet, list[Notion]]]:
    """Sets and their notions."""
    from vecmeta.meta.sets import no_notion, notions_of, parse_spec, read_set

    for path, columns in [parse_spec(spec) for spec in specs]:
        found = read_set(path, encoder_for, limit, cache_dir=cache, progress=progress)
        notions = _clustered(found, seed) if unsupervised else notions_of(found, columns)
        if not notions:
            raise InvalidConfig(no_notion(str(path), found.labels))
        yield found, notions


def _from_collection(collection: Collection, limit: int, progress: Progress) -> LabelledSet:
    """A random part of a collection: base vectors and metadata."""
    import numpy as np

    from vecmeta import Id
    from vecmeta.meta.sets import part_of, set_from_metadata

    stage = f"read {collection.name}"
    ids, metadata = list[str](), list[Any]()
    while page := collection.items(after=ids[-1] if ids else None, limit=_PAGE):
        ids += [item.id for item in page]
        metadata += [item.metadata for item in page]
    if not ids:
        raise InvalidConfig(f"the collection {collection.name!r} is empty: there is nothing to learn from")
    rows = part_of(len(ids), limit).tolist()
    parts = []
    for at in range(0, len(rows), _PAGE):
        parts.append(collection.embed([Id(ids[row]) for row in rows[at : at + _PAGE]], version=0))
        progress(stage, min(at + _PAGE, len(rows)), len(rows))
    about = {"collection": collection.name, "items": len(ids), "encoder": collection.encoder_name}
    return set_from_metadata(collection.name, np.concatenate(parts), [metadata[row] for row in rows], **about)


def _own_notions(
    own: Sequence[LabelledSet], columns: Sequence[str] | None, unsupervised: bool, seed: int
) -> list[tuple[LabelledSet, list[Notion]]]:
    """Collections and their notions; a key that was asked for must be in one of them."""
    from vecmeta.meta.sets import no_notion, notions_of

    if unsupervised:
        return [(found, _clustered(found, seed)) for found in own]
    for column in columns or ():
        if not any(column in found.labels for found in own):
            there = ", ".join(dict.fromkeys(key for found in own for key in found.labels))
            raise InvalidConfig(f"no collection that was given has labels in a metadata key {column!r}; keys: {there or 'none'}")
    sources = []
    for found in own:
        notions = notions_of(found, None if columns is None else [column for column in columns if column in found.labels])
        if not notions:
            raise InvalidConfig(no_notion(f"the collection {found.name!r}", found.labels))
        sources.append((found, notions))
    return sources


def _clustered(found: LabelledSet, seed: int, partitions: int | None = None) -> list[Notion]:
    from vecmeta.meta.clusters import PARTITIONS, notions_from_clusters

    return notions_from_clusters(found.name, found.x, partitions=partitions or PARTITIONS, seed=seed)


def _about(found: LabelledSet, notions: Sequence[Notion]) -> dict[str, Any]:
    """A set for the record: where its rows come from, and the number of classes of each notion."""
    return {"name": found.name, **found.about, "notions": {notion.name: len(notion.classes) for notion in notions}}


# -- output


def _show(facts: dict[str, Any]) -> None:
    from rich.text import Text

    about, scores = facts["provenance"], facts["scores"]
    trained, chosen = set(about["trained_on"]), len(about["validated_on"])
    rows = [
        (name, str(count), "trained on" if given and name in trained else "chosen by")
        for given, sources in ((True, about["data"]), (False, about["validation_data"]))
        for data in sources
        for name, count in data["notions"].items()
    ]
    render.show(Text(f"{facts['out']}: a start for {facts['method']}, {facts['hash'][:12]}", style="bold"))
    render.show(render.table(("notion", "classes>", ""), rows))
    if scores["after"] is None:
        render.show(f"the last step, {scores['best_step']}; to choose by: {about['validation_notions']}")
    else:
        of = f"{chosen} notion{'s' if chosen > 1 else ''}, {about['validation_notions']}"
        render.show(f"the best step, {scores['best_step']}, chosen by {of}")
        gains = [(name, f"{scores['before'][name]:+.3f}", f"{value:+.3f}") for name, value in scores["after"].items()]
        render.show(render.table(("mAP@R over the base", "untrained>", "trained>"), gains))
    spent = ", ".join(f"{stage} {value:.1f}" for stage, value in facts["seconds"].items())
    render.show(Text(f"seconds: {spent}{', resumed' if facts['resumed'] else ''}", style="dim"))
