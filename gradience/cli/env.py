"""`gradience env`: what a bug report needs, and nothing that identifies a person or a machine."""

import os
from typing import Any

from gradience.cli.app import DISTRIBUTION, conflict
from gradience.cli.output import JsonOutput, print_facts, print_screen

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)
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


def env(out: JsonOutput) -> None:
    """No paths, no host name and no user name are printed."""
    facts = environment()
    if out.json:
        print_facts(facts)
    else:
        print_screen(environment_text, facts)


def environment_text(facts: dict[str, Any], *, width: int | None = None, color: bool = False) -> str:
    """Return the facts as lines for a person."""
    from gradience.reports.base import terminal
    from gradience.reports.base.blocks import Facts
    from gradience.words import counted

    def line(versions: Versions) -> str:
        missing = [name for name, version in versions.items() if version is None]
        shown = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        return f"not installed (missing: {', '.join(missing)})" if missing else shown

    cpu = facts["cpu"]
    rows = [
        ("gradience", facts["gradience"]),
        ("python", f"{facts['python']} ({facts['implementation']})"),
        ("platform", facts["platform"]),
        ("cpu", f"{cpu['usable']} of {cpu['count']} usable"),
    ]
    for library in facts["blas"]:
        kernel = f", {library['architecture']} kernels" if library["architecture"] else ""
        version = f" {library['version']}" if library["version"] else ""
        rows.append(
            ("blas", f"{library['library']}{version}, {counted(library['threads'], 'thread')}{kernel}")
        )
    rows += [("variable", f"{name}={value}") for name, value in facts["variables"].items()]
    if facts["conflict"]:
        rows.append(("conflict", facts["conflict"]))
    rows.append(("core", line(facts["core"])))
    rows += [("extra", f"{extra}: {line(versions)}") for extra, versions in facts["extras"].items()]
    return terminal.render([Facts(rows)], width=width, color=color)
