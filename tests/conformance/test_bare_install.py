"""`pip install .` in a new environment: what it brings, how large it is, and that the core runs on it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_MB = 150
pytestmark = pytest.mark.conformance


def test_the_core_is_small_and_runs_alone(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    before = installed(pip)
    empty = size(tmp_path / "venv")
    subprocess.run([*pip, "install", "--quiet", str(ROOT)], check=True)
    brought = installed(pip) - before
    heavy = {"torch", "transformers", "peft", "scipy", "safetensors", "huggingface-hub", "huggingface_hub"}
    assert not brought & heavy
    assert size(tmp_path / "venv") - empty < LIMIT_MB * 1e6
    gradience = tmp_path / "venv" / "bin" / "gradience"
    done = subprocess.run([gradience, "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def installed(pip: list[object]) -> set[str]:
    listed = subprocess.run([*pip, "list", "--format=json"], capture_output=True, text=True, check=True)
    return {package["name"] for package in json.loads(listed.stdout)}


def size(folder: Path) -> int:
    """Bytes of the files, as `du --apparent-size` counts them."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
