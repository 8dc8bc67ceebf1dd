"""pyproject.toml -> the lowest version that it allows of every dependency, one `name==version` a line for pip.

    python scripts/lowest_versions.py > lowest.txt
    python -m pip install --constraint lowest.txt ".[bench]" --group test

`make conformance-lowest` does so and runs the tests on what was installed: a bound is a promise only if it was tried.
What the dependencies themselves need is not pinned here; pip takes what they allow.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
GROUPS = ("test",)
"""Dependency groups whose lowest versions are tried too: what runs the tests."""


def main() -> int:
    pyproject = tomllib.loads(PYPROJECT.read_text())
    print("\n".join(lowest_versions(pyproject)))
    return 0


def lowest_versions(pyproject: dict[str, Any]) -> list[str]:
    """`name==version` of every requirement, sorted. Raises ValueError for one that has no lower bound."""
    return sorted({pin(Requirement(text)) for text in requirements(pyproject)})


def requirements(pyproject: dict[str, Any]) -> list[str]:
    """Of the core, of every extra and of GROUPS; an extra that names another one brings nothing of its own."""
    project = pyproject["project"]
    groups = [pyproject["dependency-groups"][name] for name in GROUPS]
    every = [project["dependencies"], *project["optional-dependencies"].values(), *groups]
    project_name = project["name"]
    return [text for part in every for text in part if Requirement(text).name != project_name]


def pin(requirement: Requirement) -> str:
    """`numpy>=2.0` -> `numpy==2.0`."""
    bounds = [item.version for item in requirement.specifier if item.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"{requirement}: exactly one lower bound (>=) is needed")
    return f"{requirement.name}=={bounds[0]}"


if __name__ == "__main__":
    sys.exit(main())
