"""The processes that run jobs: started with the service, started again when they die, stopped with it.

Processes, not threads: an adaptation is thousands of small tensor operations, and in one interpreter searches and it would slow each other
down several times. They run at low priority for the same reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, Process

import structlog

from service.settings import Settings

NICE = 10
AGAIN_AFTER = (0.5, 1.0, 5.0, 30.0)  # seconds before a worker that died is started again
log = structlog.get_logger("vecmeta.service")


class Workers:
    """As many as the settings say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: set[Process] = set()

    async def start(self) -> None:
        """Start all of them."""
        self._tasks = [asyncio.create_task(self._keep()) for _ in range(self._settings.workers)]

    async def stop(self) -> None:
        """Ask them to end: a running job has `grace` seconds, then it is put back into the queue."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in list(self._processes):
            try:
                await asyncio.wait_for(process.wait(), self._settings.grace + 5)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._processes.clear()

    async def _keep(self) -> None:
        died = 0
        while True:
            began = asyncio.get_running_loop().time()
            process = await asyncio.create_subprocess_exec(
                *self._command(), stdin=asyncio.subprocess.PIPE, stdout=DEVNULL, env=self._environment()
            )
            self._processes.add(process)
            with contextlib.suppress(OSError, AttributeError):
                os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
                # And out of the way at once of a thread that wakes up to search: who is merely nice ends his turn first, some milliseconds.
                os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
            code = await process.wait()
            self._processes.discard(process)
            died = 0 if asyncio.get_running_loop().time() - began > 60 else died + 1
            log.error("worker_died", code=code)
            await asyncio.sleep(AGAIN_AFTER[min(died, len(AGAIN_AFTER) - 1)])

    def _command(self) -> list[str]:
        s = self._settings
        # Its standard input is a pipe from here: when this process is gone, however that came, the worker ends as well.
        times = ["--grace", str(s.grace), "--lease", str(s.lease), "--with-parent"]
        return [sys.executable, "-m", "vecmeta", "worker", "--device", s.device, *times]

    def _environment(self) -> dict[str, str]:
        """Where the database is, which may hold a password that a command line would show to everybody on the machine.

        A core is left to the searches, unless OMP_NUM_THREADS says otherwise.
        """
        s = self._settings
        where = {
            "VECMETA_DATA": s.data,
            "VECMETA_INDEX": s.index,
            "VECMETA_FILES": s.files or "",
            "VECMETA_BRIDGE": str(s.bridge),
        }
        return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) - 1)), **os.environ, **where}
