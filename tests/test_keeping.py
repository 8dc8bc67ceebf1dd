"""Maintenance files: the hosted workflow, hooks and issue forms match the Makefile and the command line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))


def commands_of_the_workflow():
    return [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]


def test_the_workflow_runs_what_a_change_must_pass():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    targets = re.findall(r"^make ([a-z-]+)", script, flags=re.MULTILINE)
    assert sorted(commands_of_the_workflow()) == sorted(f"make {target}" for target in targets)
    assert set(targets) <= set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))


def test_the_workflow_runs_the_tests_on_every_python_from_the_lowest_on():
    job = next(job for job in WORKFLOW["jobs"].values() if {"run": "make test"} in job["steps"])
    minors = [int(python.removeprefix("3.")) for python in job["strategy"]["matrix"]["python"]]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">=3.{minors[0]}"
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert f"Python 3.{minors[0]} to 3.{minors[-1]}" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_a_commit_is_checked_as_make_lint_checks():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    lint = MAKEFILE.partition("\nlint:")[2].partition("\n\n")[0]
    lint = lint.replace("$(PY)", ".venv/bin/python").replace("$(VENV)", ".venv")
    assert all(hook["entry"].removesuffix(" --fix") in lint for hook in hooks)


def test_a_bug_report_needs_what_gradience_env_says():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    env = next(field for field in form["body"] if field["id"] == "env")
    assert "`gradience env`" in env["attributes"]["label"]
    assert env["validations"]["required"]


def test_make_tells_about_each_target():
    explained = set(re.findall(r"^#   make ([a-z-]+)", MAKEFILE, flags=re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    assert phony is not None
    assert explained == set(phony[1].split()) - {"help", "format"}
