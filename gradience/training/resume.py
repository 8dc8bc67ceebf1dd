"""Resume a training where its process was killed, and recognise one that is done.

OUTPUT/training.json   written last: the training is done
OUTPUT/adapter         what came out
OUTPUT/checkpoints, start.json   until then
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_callback import TrainerState

from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.reports.training import ADAPTER, REPORT, TrainingReport
from gradience.training.checkpoints import (
    complete_checkpoints,
    ended_at,
    remove_incomplete,
    restore_adapter,
    step_of,
)
from gradience.training.journal import Journal

CHECKPOINTS, JOURNAL = "checkpoints", "start.json"


def run_from_newest(trainer: Trainer, journal: Journal, checkpoints: Path) -> float:
    """Train, from the newest complete checkpoint where there is one, and return seconds."""
    main = trainer.is_world_process_zero()
    if main:
        remove_incomplete(checkpoints)
    trainer.accelerator.wait_for_everyone()
    newest = next(reversed(complete_checkpoints(checkpoints)), None)
    if newest and main:
        journal.resume(step_of(newest))
    started = time.perf_counter()
    if newest and (state := ended_at(newest)) is not None:
        _restore(trainer, state, newest)
    else:
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    return time.perf_counter() - started


def _restore(trainer: Trainer, state: TrainerState, checkpoint: Path) -> None:
    """Restore a training that was killed after its last step: resumed, the Trainer would do one more."""
    restore_adapter(trainer.model, checkpoint)
    state.is_world_process_zero = trainer.is_world_process_zero()
    state.is_local_process_zero = trainer.is_local_process_zero()
    trainer.state = state
    arguments = trainer.args, trainer.state, trainer.control
    trainer.callback_handler.on_train_begin(*arguments)  # the telemetry gets its end
    trainer.callback_handler.on_train_end(*arguments)


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
        raise InputError(
            f"{output}: contains another training, with a different {differs}",
            code="other-training",
            hint="give an empty folder, or delete this one",
        )
    weights = output / ADAPTER / "adapter_model.safetensors"
    if weights.is_file() and sha256_file(weights) != report.adapter_sha256:
        raise InputError(
            f"{weights}: not the weights that {REPORT} beside it describes",
            code="other-training",
            hint="give an empty folder, or delete this one",
        )
    clear(output)  # a process killed right after the report was written had not come to this
    return report
