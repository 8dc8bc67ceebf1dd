"""Resume a training whose process was killed, and recognize a finished one.

OUTPUT/training.json   written last: the training is done
OUTPUT/adapter         the trained adapter
OUTPUT/checkpoints, start.json   until then

The Trainer writes a checkpoint file by file, so a killed process may leave an incomplete one. A marker file
is written last, and a checkpoint without it is deleted.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer_callback import TrainerCallback

from gradience.digests import sha256_file, sha256_text
from gradience.errors import InputError, OutputError
from gradience.files.whole import sync_folder, write_errors, write_whole
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.training import ADAPTER, REPORT, Earlier, TrainingReport

MARK = "complete"
KEPT = 2
TORCH_WRITING = ("inline_container", "iostream", "Parent directory")
"""Messages of torch.save's plain RuntimeError for a disk error: its source file, or the writer library."""


class MarkComplete(TrainerCallback):
    """Marks each checkpoint after its last file, and keeps only the newest ones."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer has just written the checkpoint of this step."""
        folder = Path(args.output_dir)
        write_whole(folder / f"checkpoint-{state.global_step}" / MARK, [b"\n"])
        sync_folder(folder)
        for old in complete_checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)


@contextmanager
def library_write_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses to PEFT, torch and safetensors into OutputError (`write-failed`).

    Only Python's own writing raises OSError. A full disk must end the run: as another error it would count as a failed
    training, which is a result.
    """
    try:
        with write_errors(folder):
            yield
    except (RuntimeError, SafetensorError) as error:
        words = str(error).strip().splitlines()[0]
        if isinstance(error, RuntimeError) and not any(mark in words for mark in TORCH_WRITING):
            raise
        hint = "check the folder, its permissions and the free space"
        raise OutputError(f"{folder}: cannot write: {words}", code="write-failed", hint=hint) from None


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, oldest first."""
    marked = [path for path in folder.glob("checkpoint-*") if (path / MARK).is_file()]
    return sorted(marked, key=step_of)


def remove_incomplete(folder: Path) -> None:
    """Delete incomplete files of a killed process, so that the Trainer does not write into them."""
    for path in set(folder.glob("checkpoint-*")) - set(complete_checkpoints(folder)):
        shutil.rmtree(path)


def step_of(checkpoint: Path) -> int:
    """Return the number of steps that had been done."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def last_loss(history: Sequence[Mapping[str, Any]], interval: int) -> float | None:
    """Return the mean loss over the steps since the last multiple of `interval` before the end; None if not finite.

    history: the Trainer's log, with the mean since the row before it in each row that has a `loss`; there is one at
    each multiple of `interval`, at each checkpoint and at the end.

    >>> last_loss([{"step": 10, "loss": 5.0}, {"step": 15, "loss": 2.0}, {"step": 20, "loss": 4.0}], 10)
    3.0
    """
    rows = [(row["step"], row["loss"]) for row in history if "loss" in row]
    if not rows or not math.isfinite(rows[-1][1]):
        return None
    end = rows[-1][0]
    begin = (end - 1) // interval * interval
    steps = [begin, *(step for step, _ in rows if step > begin)]
    losses = [loss for step, loss in rows if step > begin]
    total = sum(loss * (step - before) for before, step, loss in zip(steps, steps[1:], losses, strict=False))
    return float(total / (end - begin))


# ---------------------------------------------------------------- what the training was started from


class Started(BaseModel):
    """Content of the start file: everything that determines the training, and the machine it ran on."""

    call: str
    """Digest of everything that decides the training."""
    initial: str
    """Digest of the adapter before the first step."""
    first_batch: str
    numerics: dict[str, Any]
    """Device, threads and versions of the process that is at work, or was last."""
    resumed: list[int] = []
    earlier: list[Earlier] = []


class TrainingJournal:
    """Written when the first step is done, read when the training is resumed."""

    def __init__(
        self, path: Path, call: Mapping[str, Any], initial: str, numerics: Mapping[str, Any]
    ) -> None:
        """call: what decides the training. initial: digest of the adapter as this process drew it.

        numerics (device, threads, versions) may differ when the training is resumed: then the file names both.
        Raises InputError (`other-training`) when `path` was written by a training with other settings.
        """
        self.path, self.initial, self.numerics = path, initial, dict(numerics)
        self.call = sha256_text(json.dumps(call, sort_keys=True, default=str))
        self.started = self._read()
        if self.started and self.started.call != self.call:
            raise _other_training(path.parent, "contains a training run with different settings or data")

    def begin(self, first_batch: str) -> None:
        """Record the start, once the first step is done."""
        self._write(
            Started(call=self.call, initial=self.initial, first_batch=first_batch, numerics=self.numerics)
        )

    def resume(self, step: int) -> None:
        """Record that the training resumes from the checkpoint of `step`."""
        if self.started is None:
            return
        update: dict[str, Any] = {"resumed": [*self.started.resumed, step], "numerics": self.numerics}
        if self.started.numerics != self.numerics:
            before = Earlier(until_step=step, **self.started.numerics)
            update["earlier"] = [*self.started.earlier, before]
        self._write(self.started.model_copy(update=update))

    def _write(self, started: Started) -> None:
        self.started = started
        write_whole(self.path, [started.model_dump_json().encode()])

    def _read(self) -> Started | None:
        if not self.path.exists():
            return None
        try:
            started = Started.model_validate_json(read_file(self.path, MAX_SETTINGS_BYTES))
            Earlier.model_validate({"until_step": 0, **started.numerics})  # `resume` makes one
            return started
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]["msg"]
            raise _other_training(self.path, f"not a valid training journal: {problem}") from None


def _other_training(path: Path, problem: str) -> InputError:
    hint = "choose an empty folder, or delete this one"
    return InputError(f"{path}: {problem}", code="other-training", hint=hint)


# ---------------------------------------------------------------- resuming

CHECKPOINTS, JOURNAL = "checkpoints", "start.json"


def run_from_newest(trainer: Trainer, journal: TrainingJournal, checkpoints: Path) -> float:
    """Train, from the newest complete checkpoint if there is one, and return seconds."""
    remove_incomplete(checkpoints)
    newest = next(reversed(complete_checkpoints(checkpoints)), None)
    if newest:
        journal.resume(step_of(newest))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    return time.perf_counter() - started


def clear(output: Path) -> None:
    """Remove what only an unfinished training needs."""
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    (output / JOURNAL).unlink(missing_ok=True)


def finished(output: Path, request: Mapping[str, Any]) -> TrainingReport:
    """Return the report of a training that is done, if it is the one that is requested.

    Raises InputError (`other-training`).
    """
    report = TrainingReport.read(output / REPORT)
    done = {
        "lora": report.lora,
        "recipe": report.recipe,
        "seed": report.start.seed,
        "trained": report.trained,
    }
    if done != request:
        differs = ", ".join(key for key, value in request.items() if done[key] != value)
        raise _other_training(output, f"contains a training run with a different {differs}")
    weights = output / ADAPTER / "adapter_model.safetensors"
    if weights.is_file() and sha256_file(weights) != report.adapter_sha256:
        raise _other_training(weights, f"does not match {REPORT} beside it")
    clear(output)  # not reached if the process was killed right after it wrote the report
    return report
