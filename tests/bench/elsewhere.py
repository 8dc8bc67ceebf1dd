"""Runs of Bench whose stages are made elsewhere, what is killed while they go on, and what must not show in the end."""

import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench_process import finished, start, without_times
from killing import HANGS

from gradience.reports.training import MANIFEST, StageManifest

COMPRESSION: dict[str, Any] = {
    "variants": ["uniform_median"],
    "arms": ["retrain", "truncate"],
    "controls": [],
    "stop_early": False,
}
ONE_SEED: dict[str, Any] = {"compression": COMPRESSION, "seeds": [1]}
"""A variant that is retrained and one that is cut: seven stages."""
TWO_SEEDS: dict[str, Any] = {"compression": COMPRESSION | {"controls": ["rewrite_control"]}, "seeds": [1, 2]}
ENDS = (0, 1, 8)
"""Exit codes of a run that came to a result."""
MOMENTS, PARTS = 10, 2
"""At which something is killed; and runs over which they are spread, since a run is what takes long."""
HITS = 2
"""Times that the process of one stage is killed: after the third the stage has failed."""
RAY = "ray::1/"
"""How the title of a process of Ray begins that makes a stage of seed 1."""


def assert_same(output: Path, alone: Path) -> None:
    """The same results apart from times, and the same bytes of weights and answers, by the manifests of the stages."""
    for path in sorted(alone.rglob("bench*.json")):
        name = path.relative_to(alone)
        assert without_times(output / name) == without_times(path), name
    assert _bytes(output) == _bytes(alone)


def _bytes(output: Path) -> dict[str, str]:
    return {
        f"{path.parent.relative_to(output)}/{name}": file.sha256
        for path in output.rglob(MANIFEST)
        for name, file in StageManifest.read(path).files.items()
        if name.endswith((".safetensors", ".records.jsonl"))
    }


def stages_running() -> dict[int, str]:
    """Process of Ray -> the stage that it makes: only the tests' runs make any."""
    stages = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):  # it has just ended
            line = Path(f"/proc/{pid}/cmdline").read_text()
            if line.startswith(RAY):
                stages[pid] = line.partition("\0")[0].removeprefix(RAY)
    return stages


class Seen:
    """Looks at the stages of a run while it goes on: when each was finished."""

    def __init__(self, output: Path) -> None:
        self.output, self.over = output, threading.Event()
        self.times: dict[str, set[int]] = {}
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.over.wait(0.1):
            self._note()

    def _note(self) -> None:
        with suppress(FileNotFoundError):  # a manifest that is just taken away
            for name, moment in finished(self.output).items():
                self.times.setdefault(name, set()).add(moment)

    def once(self) -> set[str]:
        """The stages, each of which was finished at one moment."""
        self.over.set()
        self.thread.join()
        self._note()
        assert {name: len(moments) for name, moments in self.times.items() if len(moments) > 1} == {}
        return set(self.times)


class Killing:
    """A run of one seed of which something is killed several times while it goes on. part: of `PARTS`."""

    def __init__(self, config: Path, output: Path, part: int, *settings: str, stages: int = 7) -> None:
        self.config, self.output, self.settings = config, output, settings
        self.stages = stages
        self.chance = random.Random(part)
        self.after = sorted(self.chance.sample(range(stages), MOMENTS // PARTS))
        self.hits: Counter[str] = Counter()
        self.seen = Seen(output)
        self.begin()

    def begin(self) -> None:
        self.process = start(self.config, self.output, *self.settings)

    def kill_run(self) -> None:
        """Kill the process that was started, and start it again."""
        self.process.kill()
        self.process.communicate()
        self.begin()

    def moments(self) -> Iterator[tuple[int, str]]:
        """Processes with their stages, each a while after so many stages are finished; until the run is over."""
        for count in self.after:
            while len(finished(self.output)) < count and self.process.poll() is None:
                time.sleep(0.05)
            time.sleep(self.chance.uniform(0, 4))
            while not (there := self._victims()) and self.process.poll() is None:
                time.sleep(0.05)
            if not there or self.process.poll() is not None:
                return
            pid, stage = self.chance.choice(there)
            self.hits[stage] += 1
            done = len(finished(self.output))
            sys.stderr.write(f"killed at {stage}; finished: {done} of {self.stages}\n")
            yield pid, stage

    def _victims(self) -> list[tuple[int, str]]:
        return sorted((pid, stage) for pid, stage in stages_running().items() if self.hits[stage] < HITS)

    def result(self, alone: Path) -> str:
        """Its results, and stages, are those of one process, and no stage was finished twice; returns what it said."""
        _, said = self.process.communicate(timeout=HANGS)
        assert self.process.returncode in ENDS, said
        assert self.hits, "nothing was killed"
        assert_same(self.output, alone)
        assert self.seen.once() == set(finished(alone))
        return str(said)


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
