"""Adapters as a training leaves them."""

import shutil
from pathlib import Path

import pytest

from gradience.cli.demo import example_adapter


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """Three checkpoints of one adapter."""
    folder = tmp_path_factory.mktemp("run")
    for step in (100, 200, 1000):
        shutil.copytree(example_adapter(), folder / f"checkpoint-{step}")
    return folder


@pytest.fixture
def adapter(tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(example_adapter(), tmp_path / "adapter"))
