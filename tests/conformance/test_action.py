"""The action and the hook, read by programs that know what GitHub and pre-commit accept."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradience.cli.demo import example_adapter

pytestmark = pytest.mark.conformance

ROOT = Path(__file__).parents[2]
WORKFLOWS = [ROOT / "examples" / "adapter_gate.yml", *(ROOT / ".github" / "workflows").glob("*.yml")]


def succeeds(*words: str | Path, folder: Path = ROOT) -> bool:
    return subprocess.run(list(map(str, words)), cwd=folder, check=False).returncode == 0


@pytest.mark.parametrize(
    ("schema", "files"),
    [("vendor.github-actions", [ROOT / "action.yml"]), ("vendor.github-workflows", WORKFLOWS)],
    ids=["action", "workflows"],
)
def test_the_files_have_githubs_schema(schema, files):
    assert succeeds(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files)


def test_actionlint_finds_nothing():
    if shutil.which("actionlint") is None:  # its package on the index downloads the program from elsewhere
        pytest.skip("actionlint is not installed")
    assert succeeds("actionlint", *WORKFLOWS)


def test_pre_commit_installs_and_runs_the_hook(tmp_path):
    config = shutil.copytree(example_adapter(), tmp_path / "adapter") / "adapter_config.json"
    run = (sys.executable, "-m", "pre_commit", "try-repo", ROOT, "gradience-check", "--files", config)
    assert succeeds("git", "init", "-q", folder=tmp_path)
    assert succeeds(*run, folder=tmp_path)
    config.write_text(config.read_text().replace('"r": 8', '"r": 0'))
    assert not succeeds(*run, folder=tmp_path)
