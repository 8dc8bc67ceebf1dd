"""The notebooks run from their first cell to their last in a real Jupyter kernel, and show what their words promise."""

import re
from pathlib import Path

import nbformat
import pytest
from killing import HANGS
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "docs" / "notebooks"
SHOWN = {
    "audit_compress": """
        minilm-reviews-r8 | 16 modules | energy_rank_90
        Compressed to smaller | Comparison
        {4}""",
    "callback_monitor": """
        'labels': | Training Loss
        run/run.jsonl | finished | of 8
        Audit of run/adapter | 'train_step'""",
}
"""In this order, in the outputs of each."""


def outputs(notebook):
    """Return the outputs of each cell: HTML or Markdown if there is one, else text."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            kinds = ("text/html", "text/markdown", "text/plain")
            yield next((data[kind] for kind in kinds if kind in data), "")


def test_every_notebook_is_here():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_is_kept_without_outputs(name):
    """They would be out of date at the next change of a screen."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert list(outputs(notebook)) == []
    assert all(cell.get("execution_count") is None for cell in notebook.cells)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    for variable in (
        "IPYTHONDIR",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "HF_HOME",
    ):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=HANGS, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    rest = re.sub(r"<[^>]*>", "", "\n".join(outputs(notebook)))
    for words in re.split(r"[|\n]", SHOWN[name].strip()):
        _, match, rest = rest.partition(words.strip())
        assert match, words
