"""Verbs of a service: serve, worker, and the API keys: keys create, list, revoke."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vecmeta.cli import render
from vecmeta.cli.app import note, opened, print_json, shared
from vecmeta.errors import InvalidConfig
from vecmeta.threads import share_the_cores
from vecmeta.types import Scope

if TYPE_CHECKING:
    from vecmeta import Job, Key

BRIDGE = "Versions go live before their indexes are built, the old ones answering for them. Default: $VECMETA_BRIDGE, or not."


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="No API keys; only this machine is answered.")] = False,
    workers: Annotated[int | None, typer.Option(min=0, metavar="N", help="Processes that run jobs. Default: 1.")] = None,
    rate: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Requests a minute and key; 0: no limit. Default: 0.")
    ] = None,
    cors_origin: Annotated[list[str] | None, typer.Option(help="Web sites whose pages may ask. Default: none.")] = None,
    encoder: Annotated[list[str] | None, typer.Option(help="Encoders that callers may name. Default: the built-in ones.")] = None,
    bridge: Annotated[bool, typer.Option("--bridge", help=BRIDGE)] = False,
) -> None:
    """Serve the database over HTTP until Ctrl-C or SIGTERM. /docs is the manual; more settings are environment variables VECMETA_…"""
    wanted = {
        "workers": workers,
        "rate": rate,
        "cors_origins": cors_origin and tuple(cors_origin),
        "encoders": encoder and tuple(encoder),
        "bridge": bridge or None,
    }
    options = {name: value for name, value in wanted.items() if value is not None}
    share_the_cores()  # before a database is opened
    if no_auth:
        options["auth"] = False
    else:
        with opened(context) as db:
            if not db.keys.list():
                note("no API keys yet; make one: vecmeta keys create admin --scope admin")
    # The service builds upon vecmeta, never the other way round: it makes itself known as an entry point.
    for entry in entry_points(group="vecmeta.serve"):
        about = shared(context)
        entry.load()(host, port, data=about.data, index=about.index, files=about.files, device=about.device, **options)
        return
    raise InvalidConfig("the package `service` is not installed: pip install vecmeta")


def worker(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Run the jobs that are due, then end.")] = False,
    grace: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How long a running job may go on after SIGTERM, before it is put back."),
    ] = 10.0,
    lease: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Silence after which other workers take a job over, 0.5 to 3,600; the same for all workers of a database.",
        ),
    ] = 15.0,
    bridge: Annotated[bool, typer.Option("--bridge", envvar="VECMETA_BRIDGE", help=BRIDGE)] = False,
    with_parent: Annotated[
        bool,
        typer.Option(
            "--with-parent", hidden=True, help="End when standard input ends: the process that started this one is gone."
        ),
    ] = False,
) -> None:
    """Run the jobs of a database until Ctrl-C (at once) or SIGTERM (in good order); with --json a line on each. Any number may run."""
    from vecmeta.worker import Worker

    machine = shared(context).json
    with opened(context, bridge) as db, _stopped_by_sigterm() as stop:
        if with_parent:
            threading.Thread(target=_set_at_end_of_input, args=(stop,), daemon=True).start()
        if not once:
            threading.Thread(target=_import_early, daemon=True).start()
        runner = Worker(db, lease=lease)
        note(f"worker {runner.name} on {db}" + ("" if once else "; Ctrl-C ends it"))

        def told(job: Job) -> None:
            note(_job_line(job))
            if machine:
                print_json(job_json(job))

        runner.run(stop, grace=grace, once=once, told=told)


@contextmanager
def _stopped_by_sigterm() -> Iterator[threading.Event]:
    """An event that is set when the process is asked to end."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _set_at_end_of_input(stop: threading.Event) -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock a thread must not hold when the interpreter ends
        pass
    stop.set()


def _import_early() -> None:
    """What the first adaptation would wait two to four seconds for."""
    import vecmeta.adaptation  # noqa: F401


def _job_line(job: Job) -> str:
    if job.state == "queued":
        said = "put back into the queue"
    elif job.error is not None:
        said = f"failed: {job.error[1]} ({job.error[0]})"
    elif job.report is not None:
        number = "" if job.report.version is None else f", version {job.report.version}"
        said = f"{job.state}{number}: {job.report.reason}"
    else:
        said = job.state
    return f"{job.id} {job.kind} {job.collection}: {said}"


def job_json(job: Job) -> dict[str, Any]:
    """A job as a JSON object."""
    times = {name: getattr(job, name) for name in ("created", "due", "started", "finished")}
    return {
        "id": job.id,
        "collection": job.collection,
        "kind": job.kind,
        "params": dict(job.params),
        "state": job.state,
        "done": job.done,
        "total": job.total,
        "eta": job.eta,
        "attempts": job.attempts,
        "joined": job.joined,
        "report": None if job.report is None else render.report_json(job.report),
        "error": None if job.error is None else {"error": job.error[0], "detail": job.error[1]},
        **{name: _iso(moment) for name, moment in times.items()},
    }


def keys_create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what it is for.")],
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", help="read, feedback, write or admin; repeatable. Default: read.")
    ] = None,
    collections: Annotated[
        list[str] | None, typer.Option("--collection", metavar="NAME", help="Only these collections; repeatable. Default: all.")
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0, metavar="N", help="How long it is good for. Default: until revoked.")
    ] = None,
) -> None:
    """Make an API key and print its secret, this once."""
    expires = None
    if days is not None:
        try:
            expires = datetime.now(UTC) + timedelta(days=days)
        except OverflowError:
            raise typer.BadParameter(f"{days:g} days from now is beyond the calendar", param_hint="--days") from None
    with opened(context) as db:
        secret, key = db.keys.create(name, cast(list[Scope], scopes or ["read"]), collections or None, expires)
    if shared(context).json:
        print_json({"secret": secret, **key_json(key)})
    else:
        typer.echo(secret)
    note(f"key {key.id} for {key.name}; its secret is shown this once and cannot be shown again")


def keys_list(context: typer.Context) -> None:
    """List the API keys, without their secrets."""
    with opened(context) as db:
        found = db.keys.list()
    if shared(context).json:
        print_json([key_json(key) for key in found])
        return
    rows = [
        (
            key.id,
            key.name,
            " ".join(key.scopes),
            "all" if key.collections is None else " ".join(key.collections),
            *(_day(moment) for moment in (key.created, key.used)),
            _standing(key),
        )
        for key in found
    ]
    render.show(render.table(("id", "name", "scopes", "collections", "created", "used", ""), rows))


def keys_revoke(
    context: typer.Context, id: Annotated[str, typer.Argument(metavar="ID", help="Of the key, as `vecmeta keys list` shows it.")]
) -> None:
    """Revoke an API key for good."""
    with opened(context) as db:
        key = db.keys.revoke(id)
    if shared(context).json:
        print_json(key_json(key))
    else:
        typer.echo(f"key {key.id} for {key.name} is revoked")


def key_json(key: Key) -> dict[str, Any]:
    """A key as a JSON object."""
    times = {name: getattr(key, name) for name in ("created", "expires", "revoked", "used")}
    return {
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "collections": None if key.collections is None else list(key.collections),
        **{name: _iso(moment) for name, moment in times.items()},
    }


def _standing(key: Key) -> str:
    if key.revoked is not None:
        return f"revoked {_day(key.revoked)}"
    if key.expires is None:
        return ""
    return f"{'expired' if key.expires <= datetime.now(UTC) else 'until'} {_day(key.expires)}"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _day(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M")
