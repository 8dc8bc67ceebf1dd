"""A training in processes of its own, one for each GPU: `torchrun -m gradience.training.launch ORDER.json`.

The Trainer finds the other processes through accelerate, which reads what torchrun (or `accelerate launch`) says.
Everything the training needs is in one JSON file, but for the permission to run a task's own code, which is
inherited in the environment; everything it makes is in its output folder.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from gradience import tasks
from gradience.errors import IncompleteError, InputError
from gradience.models.settings import ModelSettings
from gradience.orphans import ends_with_parent
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.tasks.base import rendered
from gradience.training.network import Trained
from gradience.training.settings import TrainSettings
from gradience.training.trainer import train
from gradience.words import visible

MAX_LINE = 2**16
"""Characters that are shown at once: a line without an end is not waited for."""
PATIENCE = 60
"""Seconds that a launcher has to end its workers."""


class TrainingOrder(BaseModel):
    """The arguments of `train`, as a file."""

    profile: str
    options: dict[str, Any]
    folder: Path | None = None
    """Base folder of relative paths in the options; by default the working directory."""
    data: str
    """Fingerprint of the train examples that the process which launches this has seen."""
    model: ModelSettings
    lora: dict[str, Any]
    recipe: TrainSettings
    seed: int
    trained: Trained = "lora"
    device: str = "auto"
    output: Path

    def run(self) -> None:
        """Train, on the same examples as the process that launched this. Raises InputError (`task-changed`)."""
        task = rendered(tasks.load(self.profile, self.options, folder=self.folder), self.model)
        if task.examples.fingerprint("train", self.recipe.train_samples) != self.data:
            raise InputError(
                f"{self.profile}: returns different training examples than in the process that started the run",
                code="task-changed",
                hint="do not change its files during a run, and seed all its random choices",
            )
        about_the_task = {"profile", "options", "folder", "data"}
        train(task, **{name: getattr(self, name) for name in set(type(self).model_fields) - about_the_task})


def launch(order: TrainingOrder, processes: int) -> None:
    """Run `order` in `processes` processes, and wait for them. Their output goes to stderr, every character visible.

    Raises IncompleteError (`training-failed`) if they fail; their output precedes it.
    """
    path = order.output.with_name(f"{order.output.name}.order.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(order.model_dump_json(indent=2), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), "-m", "gradience.training.launch", str(path)]
    code = _shown(command)
    if code:
        raise IncompleteError(
            f"{order.output}: the training in {processes} processes ended with exit code {code}",
            code="training-failed",
            hint="see its message above; run again to resume from the last checkpoint",
        )
    path.unlink()


def _shown(command: Sequence[str]) -> int:
    """Run `command`; what it says goes to stderr as it comes. Returns its exit code.

    Libraries quote names from untrusted files there, and a child that had our terminal could steer it with them.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="backslashreplace",
        preexec_fn=ends_with_parent,  # also if this process is killed and cannot stop it
    ) as process:
        assert process.stdout is not None
        try:
            while line := process.stdout.readline(MAX_LINE):
                sys.stderr.write(visible(line))
        except BaseException:  # Ctrl-C and SIGTERM as well: no worker outlives its parent
            process.terminate()  # which lets it end its workers in its own way
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    return process.returncode


if __name__ == "__main__":
    ends_with_parent()  # a launcher that is killed leaves no worker behind
    TrainingOrder.model_validate_json(read_file(Path(sys.argv[1]), MAX_SETTINGS_BYTES)).run()
    if torch.distributed.is_initialized():  # else the first process to leave takes the others down
        torch.distributed.destroy_process_group()
