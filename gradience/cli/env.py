"""`gradience env`: what a bug report needs, and nothing that identifies a person or a machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from gradience.cli.output import print_screen
from gradience.words import counted

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
HUB_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def env(json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """No paths, no host name and no user name are printed."""
    facts = environment()
    if json:
        import json as json_module

        print(json_module.dumps(facts, indent=2))
        return
    print_screen(environment_text, facts)


def environment() -> dict[str, Any]:
    """Return facts about this installation. No paths, no host name, no user name."""
    import platform

    from gradience import __version__

    return {
        "gradience": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "cpu": {"model": cpu_model(), "count": os.cpu_count(), "usable": usable_cpus()},
        "blas": blas_libraries(),
        "variables": {
            name: os.environ[name] for name in (*THREAD_VARIABLES, *HUB_VARIABLES) if name in os.environ
        },
        "core": installed_versions(requirements_by_extra().get("", [])),
        "extras": {
            extra: installed_versions(names) for extra, names in requirements_by_extra().items() if extra
        },
    }


def environment_text(facts: dict[str, Any], *, width: int | None = None, color: bool = False) -> str:
    """Return the facts as lines for a person."""
    from gradience.reports.base import terminal
    from gradience.reports.base.blocks import Facts

    cpu = facts["cpu"]
    lines = [
        ("gradience", facts["gradience"]),
        ("python", f"{facts['python']} ({facts['implementation']})"),
        ("platform", facts["platform"]),
        ("cpu", f"{cpu['model'] or 'unknown model'}, {cpu['usable']} of {cpu['count']} usable"),
    ]
    lines += [("blas", blas_line(library)) for library in facts["blas"]]
    lines += [("variable", f"{name}={value}") for name, value in facts["variables"].items()]
    lines.append(("core", versions_line(facts["core"])))
    for extra, versions in facts["extras"].items():
        missing = [name for name, version in versions.items() if version is None]
        state = f"not installed (missing: {', '.join(missing)})" if missing else versions_line(versions)
        lines.append(("extra", f"{extra}: {state}"))
    return terminal.render([Facts(lines)], width=width, color=color)


def versions_line(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())


def blas_line(library: dict[str, Any]) -> str:
    kernel = f", {library['architecture']} kernels" if library["architecture"] else ""
    return f"{library['library']} {library['version'] or ''}, {counted(library['threads'], 'thread')}{kernel}".replace(
        " ,", ","
    )


def blas_libraries() -> list[dict[str, Any]]:
    """Return the linear algebra libraries that numpy loads, with their number of threads."""
    import numpy as np  # noqa: F401  (loads its BLAS, which is what is looked at)
    from threadpoolctl import threadpool_info

    return [
        {
            "library": library["internal_api"],
            "version": library["version"],
            "threads": library["num_threads"],
            "architecture": library.get("architecture"),
        }
        for library in threadpool_info()
    ]


def cpu_model() -> str | None:
    """Return the processor's name as the system gives it."""
    import platform

    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return platform.processor() or None
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return match[1] if match else platform.processor() or None


def usable_cpus() -> int | None:
    """Return how many CPUs this process may run on; fewer than the machine has inside many containers."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def requirements_by_extra() -> dict[str, list[str]]:
    """Return the names of the required packages, by extra ("" is the core), as the installed package declares them."""
    from importlib.metadata import PackageNotFoundError, metadata

    from packaging.requirements import Requirement

    try:
        declared = metadata("gradience")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return {}
    lines = [Requirement(line) for line in declared.get_all("Requires-Dist", [])]
    return {"": [line.name for line in lines if line.marker is None]} | {
        extra: [line.name for line in lines if line.marker and line.marker.evaluate({"extra": extra})]
        for extra in declared.get_all("Provides-Extra", [])
    }


def installed_versions(names: list[str]) -> dict[str, str | None]:
    """Return the version of each package, or None; nothing is imported."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions
