"""One environment for every test: offline, one BLAS thread, the same random examples every time; slow files first."""

import gc
import os
import sys
from pathlib import Path

# Adapters made byte by byte and tiny models are used beyond the folders that they lie in.
sys.path += [
    str(Path(__file__).parent / folder) for folder in ("adapters", "bench", "compress", "evaluate", "report")
]

# What is cached between runs of the suite lies in the clone: no test writes to the home of whoever runs it.
for name in ("CACHE", "CONFIG", "DATA"):
    os.environ[f"XDG_{name}_HOME"] = str(Path(__file__).parents[1] / ".cache" / name.lower())

# Before anything loads numpy or torch: their thread pools read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
# What a developer's shell may hold, and what would change the output under test.
for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
    os.environ.pop(variable, None)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# The same examples every time, however slow the machine: `pytest --hypothesis-profile explore` draws new ones.
patient = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, **patient)
settings.register_profile("explore", **patient)
settings.register_profile(
    "many", derandomize=True, max_examples=int(os.environ.get("EXAMPLES", "100")), **patient
)
settings.load_profile("fixed")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A classifier, adapters on it and rows: see `adapters_to_compare`."""
    from adapters_to_compare import classifiers

    return classifiers(tmp_path_factory.mktemp("classifiers"))


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A language model, adapters on it and a task: see `adapters_to_compare`."""
    from adapters_to_compare import writers

    return writers(tmp_path_factory.mktemp("writers"))


@pytest.fixture
def command(capsys):
    """`gradience ARGUMENTS`, which must end with `code`: what it prints to stdout, and what to stderr."""
    from gradience.cli.app import run

    def call(*arguments, code=0):
        assert run([*map(str, arguments)]) == code
        return capsys.readouterr()

    return call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test come first: the last process to end has then only short ones left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collectstart() -> None:
    """Pause garbage collection while test modules are imported: it takes a quarter of that time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave the libraries that are loaded by now out of every later collection of garbage.

    Half a million objects of torch and transformers take a quarter of a second to walk through, and every training and
    every evaluation collects what it leaves behind.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
