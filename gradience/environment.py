"""Facts about this installation for a bug report: nothing that identifies a person or a machine."""

import os
from typing import Any

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)
DISTRIBUTION = "gradience-lora"
"""The package's name for pip. `gradience` on the package index is another project with the same import name."""
Versions = dict[str, str | None]


def environment() -> dict[str, Any]:
    """Return facts about this installation. No paths, no host name, no user name."""
    import platform

    import numpy as np  # noqa: F401  (loads BLAS, so that threadpool_info finds it)
    from threadpoolctl import threadpool_info

    from gradience import __version__
    from gradience.blas import processors

    versions = installed_versions()
    return {
        "gradience": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "cpu": {"count": os.cpu_count(), "usable": processors()},
        "blas": [
            {
                "library": library["internal_api"],
                "version": library["version"],
                "threads": library["num_threads"],
                "architecture": library.get("architecture"),
            }
            for library in threadpool_info()
        ],
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "conflict": conflict(),
        "core": versions.pop("", {}),
        "extras": versions,
    }


def conflict() -> str | None:
    """Return a sentence if the other project named `gradience` is installed too: both write `gradience/`."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        other = version("gradience")
    except PackageNotFoundError:
        return None
    return (
        f"another project, gradience {other}, is installed here too and overwrites files of {DISTRIBUTION}: run"
        f" pip uninstall gradience {DISTRIBUTION}, then install {DISTRIBUTION} again"
    )


def installed_versions() -> dict[str, Versions]:
    """Return the versions of the packages that each extra requires, None if missing; "" is the core."""
    from importlib.metadata import PackageNotFoundError, metadata, version

    from packaging.requirements import Requirement

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    try:
        declared = metadata(DISTRIBUTION)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return {}
    lines = [Requirement(line) for line in declared.get_all("Requires-Dist", [])]
    names = {"": [line.name for line in lines if line.marker is None]} | {
        extra: [line.name for line in lines if line.marker and line.marker.evaluate({"extra": extra})]
        for extra in declared.get_all("Provides-Extra", [])
    }
    return {extra: {name: installed(name) for name in required} for extra, required in names.items()}
