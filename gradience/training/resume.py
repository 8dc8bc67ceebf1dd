"""A training taken up where its process was killed, and one that is done found again.

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

from gradience.artifacts.training import TrainingReport
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.training.checkpoints import (
    complete_checkpoints,
    ended_at,
    remove_incomplete,
    restore_adapter,
    step_of,
)
from gradience.training.journal import Journal

REPORT, ADAPTER, CHECKPOINTS, JOURNAL = "training.json", "adapter", "checkpoints", "start.json"


def run_from_newest(trainer: Trainer, journal: Journal, checkpoints: Path) -> float:
    """Train, from the newest complete checkpoint where there is one. Returns seconds."""
    main = trainer.is_world_process_zero()
    if main:
        remove_incomplete(checkpoints)
    trainer.accelerator.wait_for_everyone()
    found = complete_checkpoints(checkpoints)
    if found and main:
        journal.resume(step_of(found[-1]))
    started = time.perf_counter()
    ended = ended_at(found[-1]) if found else None
    if ended is not None:
        _restore(trainer, ended, found[-1])
    else:
        trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    return time.perf_counter() - started


def _restore(trainer: Trainer, state: TrainerState, checkpoint: Path) -> None:
    """Take a training that was killed after its last step from its last checkpoint: the Trainer would do one more."""
    restore_adapter(trainer.model, checkpoint)
    state.is_world_process_zero = trainer.is_world_process_zero()
    state.is_local_process_zero = trainer.is_local_process_zero()
    trainer.state = state
    told = trainer.args, trainer.state, trainer.control
    trainer.callback_handler.on_train_begin(*told)  # the telemetry gets its end
    trainer.callback_handler.on_train_end(*told)


def clear(output: Path) -> None:
    """Remove what only an unfinished training needs."""
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    (output / JOURNAL).unlink(missing_ok=True)


def finished(output: Path, asked: Mapping[str, Any]) -> TrainingReport:
    """The report of a training that is done, if it is the one that is asked for.

    Raises InputError (`other-training`).
    """
    report = TrainingReport.read(output / REPORT)
    done = {
        "lora": report.lora,
        "recipe": report.recipe,
        "seed": report.start.seed,
        "trained": report.trained,
    }
    if done != asked:
        differs = ", ".join(key for key, value in asked.items() if done[key] != value)
        raise InputError(
            f"{output}: holds another training: its {differs} differ",
            code="other-training",
            hint="give an empty folder, or delete this one",
        )
    weights = output / ADAPTER / "adapter_model.safetensors"
    if weights.is_file() and sha256_file(weights) != report.adapter_sha256:
        raise InputError(
            f"{weights}: not the weights that {REPORT} beside it tells of",
            code="other-training",
            hint="give an empty folder, or delete this one",
        )
    clear(output)  # killed after its last word, it had not come to this
    return report
