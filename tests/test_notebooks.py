"""The notebooks run from top to bottom, and are stored without outputs."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what the kernel's libraries think of each other
    import nbformat
    from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NAMES = ("01_quickstart", "02_teach_images", "03_meta_train", "04_service", "05_scale_out")
SLOW = ("02_teach_images", "03_meta_train", "04_service")
SMALL = 200_000  # bytes of outputs


def run(name: str, **environment: str) -> list[Any]:
    """Execute a notebook in a kernel of its own; its code cells, with what they gave."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", **environment}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute(
            env=env
        )
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cells: list[Any]) -> str:
    """All that was printed or shown as text."""
    outputs = [output for cell in cells for output in cell.outputs]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_every_notebook_is_here_and_stored_without_outputs() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    for name in NAMES:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        assert notebook.cells[0].cell_type == "markdown"
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert not cell.outputs
                assert cell.execution_count is None
                compile(cell.source, name, "exec")


def test_the_quickstart_gains() -> None:
    cells = run("01_quickstart")
    assert "of the same module among the ten nearest" in printed(cells)  # and asserts that it rose


def test_scaling_out_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a kernel, whose start takes longer than all that is left to do."""
    for name in ("VECMETA_DATA", "VECMETA_INDEX"):
        monkeypatch.delenv(name, raising=False)
    names: dict[str, Any] = {}
    for cell in nbformat.read(FOLDER / "05_scale_out.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "05_scale_out", "exec"), names)
    assert "nothing below runs" in capsys.readouterr().out
    assert "one" not in names  # no database was opened


@pytest.mark.quality
def test_scaling_out_over_postgresql_and_milvus(postgres_url: str, real_milvus: str) -> None:
    said = printed(run("05_scale_out", VECMETA_DATA=postgres_url, VECMETA_INDEX=real_milvus))
    print(said)
    assert "promoted -" in said
    assert "the other replica answers with version 1" in said
    assert "the same\n" in said
    assert "left in Milvus: {}" in said


@pytest.mark.quality
@pytest.mark.parametrize("name", SLOW)
def test_the_others_run(name: str) -> None:
    if name == "04_service" and shutil.which("curl") is None:
        pytest.skip("no curl here")
    cells = run(name)
    assert sum(len(str(cell.outputs)) for cell in cells) < SMALL
    print(printed(cells))
