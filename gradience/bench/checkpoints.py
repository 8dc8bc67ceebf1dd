"""Checkpoints of a training: complete when they say so, and only then resumed from.

The Trainer writes a checkpoint file by file. A process killed in the middle leaves a folder that looks like a
checkpoint; so a mark is written last, and a folder without the mark is thrown away.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerCallback

from gradience.artifacts.base import sync_folder, write_whole

MARK = "complete"
KEPT = 2


class MarkComplete(TrainerCallback):
    """Marks each checkpoint after its last file, and keeps only the newest ones."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer has just written the checkpoint of this step."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        write_whole(folder / f"checkpoint-{state.global_step}" / MARK, [b"\n"])
        sync_folder(folder)
        for old in complete_checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    marked = [path for path in folder.glob("checkpoint-*") if (path / MARK).is_file()]
    return sorted(marked, key=step_of)


def remove_incomplete(folder: Path) -> None:
    """Delete what a killed process left half-written, lest the Trainer writes into it."""
    for path in set(folder.glob("checkpoint-*")) - set(complete_checkpoints(folder)):
        shutil.rmtree(path)


def step_of(checkpoint: Path) -> int:
    """The number of steps that had been done."""
    return int(checkpoint.name.removeprefix("checkpoint-"))
