"""A part of a benchmark in a process of its own, so that nothing else counts to its memory or is in its caches."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import vecmeta as vm

_CODE = """
import json, sys
from importlib import import_module
module, function, given = json.loads(sys.argv[1])
print(json.dumps(getattr(import_module(module), function)(**given)))
"""


def alone(module: str, function: str, **given: Any) -> Any:
    """What a function returns in a fresh process; arguments and result are JSON. Raises VecmetaError with its last words if it fails."""
    return last_line([sys.executable, "-c", _CODE, json.dumps([module, function, given])])


def last_line(command: list[str]) -> Any:
    """The last line that a command prints, from JSON. Raises VecmetaError with its last words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise vm.VecmetaError(f"the benchmark failed: {said[-1] if said else done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
