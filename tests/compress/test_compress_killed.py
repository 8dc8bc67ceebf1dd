"""Real processes: killed at every stage, out of space, racing each other. There is no output or a complete one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from factor_samples import random_factors, write
from killing import HANGS
from raising import raises

from gradience import audit_adapter
from gradience.adapters.formats import open_adapter
from gradience.cli.app import run
from gradience.compress.adapter import write_compressed
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToRank

KILL = """
import os, signal, sys
from gradience.cli.app import run

def kill_at(where, call):
    place, _, name = where.rpartition(".")
    module, _, owner = place.partition(":")
    target = __import__(module, fromlist=["x"])
    if owner:
        target = getattr(target, owner)
    original, count = getattr(target, name), [0]
    def counted(*args, **options):
        count[0] += 1
        if count[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)
    setattr(target, name, counted)

if sys.argv[3] == "by renames":
    import gradience.files.whole as whole
    whole.exchange = lambda one, other: False

kill_at(sys.argv[1], int(sys.argv[2]))
sys.exit(run(sys.argv[4:]))
"""

WRITER = "gradience.compress.weights:WeightsWriter"
POINTS = {
    "before the header": (f"{WRITER}.put", 1),
    "in the middle of the weights": (f"{WRITER}.put", 4),
    "before the weights are on the disk": (f"{WRITER}.close", 1),
    "before the config": ("gradience.compress.weights.write_config", 1),
    "before the other files": ("gradience.compress.adapter.carry_files", 1),
    "before the check": ("gradience.compress.weights.check_written", 1),
    "before the report": ("gradience.files.artifact:Artifact.save", 1),
    "before the Markdown": ("gradience.compress.adapter:Path.write_bytes", 2),
    "before the folder is synced": ("gradience.files.whole._sync", 1),
    "before the rename": ("gradience.files.whole:Path.rename", 1),
    "after the rename": ("gradience.files.whole.sync_folder", 5),
}
SWAP_POINTS = {
    "in the middle of the weights": POINTS["in the middle of the weights"],
    "before the exchange": ("gradience.files.whole.exchange", 1),
    "before the old folder is removed": ("gradience.files.scratch:shutil.rmtree", 1),
    "after the exchange": POINTS["after the rename"],
}


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    return ["compress", str(folder), "--rank", "2", "--output", str(out), "--quiet", *more]


def killed_at(point: tuple[str, int], folder: Path, out: Path, *more: str, swap: str = "at once") -> int:
    where, call = point
    return python("-c", KILL, where, str(call), swap, *arguments(folder, out, *more)).returncode


def python(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], env=environment(), capture_output=True, text=True, timeout=HANGS
    )


def content(folder: Path) -> dict[str, bytes]:
    """Everything that does not hold a time or a path."""
    return {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if not entry.name.startswith("compression_")
    }


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """An adapter, and what the run leaves when nobody kills it."""
    root = tmp_path_factory.mktemp("case")
    folder = write(root / "in", random_factors(0, *[(6, 20, 30)] * 4))
    (folder / "README.md").write_text("# card")
    assert run(arguments(folder, root / "reference" / "out")) == 0
    return folder, content(root / "reference" / "out")


def finish(folder: Path, out: Path, expected: dict[str, bytes]) -> None:
    """The next run succeeds, and clears away what was left."""
    assert run([*arguments(folder, out), "--force"]) == 0
    assert content(out) == expected
    assert [entry.name for entry in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("point", POINTS)
def test_killed_while_writing(point, case, tmp_path):
    folder, expected = case
    out = tmp_path / "out"
    assert killed_at(POINTS[point], folder, out) == -signal.SIGKILL
    assert out.exists() == (point == "after the rename")
    if out.exists():
        assert content(out) == expected
    finish(folder, out, expected)


@pytest.mark.parametrize("point", SWAP_POINTS)
def test_killed_while_replacing(point, case, tmp_path):
    folder, expected = case
    out = tmp_path / "out"
    write(out, random_factors(1, (3, 5, 5)))
    old = content(out)
    assert killed_at(SWAP_POINTS[point], folder, out, "--force") == -signal.SIGKILL
    before = point in ("in the middle of the weights", "before the exchange")
    assert content(out) == (old if before else expected)
    finish(folder, out, expected)


LIMITED = """
import resource, sys
from gradience.cli.app import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [0, 100, 1500, 2500])
@pytest.mark.parametrize("force", [False, True])
def test_no_room(limit, force, case, tmp_path):
    """In the header, in the weights, in the report: exit 5, a sentence, and all that was there is there."""
    folder, _ = case
    out = tmp_path / "out"
    if force:
        write(out, random_factors(1, (3, 5, 5)))
    old = content(out) if force else None
    options = ["--force"] if force else []
    done = python("-c", LIMITED, str(limit), *arguments(folder, out, *options))
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == (["out"] if force else [])
    assert not force or content(out) == old


def test_interrupted_by_the_keyboard(case, tmp_path):
    """Ctrl-C is no crash: nothing is left, exit 130."""
    folder, _ = case
    # A shell that starts a job in the background lets it ignore Ctrl-C.
    interrupt = "signal.signal(signal.SIGINT, signal.default_int_handler); signal.raise_signal(signal.SIGINT)"
    script = KILL.replace("os.kill(os.getpid(), signal.SIGKILL)", interrupt)
    done = python("-c", script, f"{WRITER}.put", "4", "at once", *arguments(folder, tmp_path / "out"))
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_input_changed_since_it_was_planned(tmp_path):
    folder = write(tmp_path / "in", random_factors(0, (6, 20, 30)))
    plan = plan_compression(audit_adapter(folder), ToRank(2))
    from gradience.errors import UsageError

    for changed in (
        lambda: write(folder, random_factors(1, (6, 20, 30))),
        lambda: write(folder, random_factors(0, (5, 20, 30))),
        lambda: write(folder, random_factors(0, (6, 20, 30), (6, 20, 30))),
        lambda: write(folder, random_factors(0, (6, 20, 30)), lora_alpha=99),
    ):
        changed()
        with open_adapter(folder) as opened, raises(UsageError, "plan-mismatch"):
            write_compressed(opened, plan, tmp_path / "out")
        assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == 99
