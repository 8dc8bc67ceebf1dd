"""Runs of Bench that several files compare with: the configs, and each run in one process."""

from pathlib import Path

import pytest
from bench_process import finish, write_inputs
from elsewhere import ENDS, ONE_SEED, TWO_SEEDS


@pytest.fixture(scope="session")
def one_seed(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("one"), **ONE_SEED)


@pytest.fixture(scope="session")
def two_seeds(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("two"), **TWO_SEEDS)


@pytest.fixture(scope="session")
def one_alone(one_seed, tmp_path_factory):
    return alone(one_seed, tmp_path_factory.mktemp("one alone"))


@pytest.fixture(scope="session")
def two_alone(two_seeds, tmp_path_factory):
    return alone(two_seeds, tmp_path_factory.mktemp("two alone"))


def alone(config: Path, output: Path) -> Path:
    """The folder of the run in one process."""
    code, _, said = finish(config, output)
    assert code in ENDS, said
    return output
