"""Checkpoints of a training: complete when they say so, and only then resumed from.

The Trainer writes a checkpoint file by file. A process killed in the middle leaves a folder that looks like a
checkpoint; so a mark is written last, and a folder without the mark is thrown away.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.trainer_callback import TrainerCallback, TrainerState

from gradience.errors import OutputError
from gradience.files.whole import sync_folder, write_errors, write_whole
from gradience.reading import MAX_DATA_BYTES, check_regular

MARK = "complete"
KEPT = 2
TORCH_WRITING = ("inline_container", "iostream", "Parent directory")
"""What torch.save says in a plain RuntimeError when the disk refuses: its own file, or the library that writes."""


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
        raise OutputError(
            f"{folder}: cannot write: {words}",
            code="write-failed",
            hint="check the folder, its permissions and the free space",
        ) from None


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, oldest first."""
    marked = [path for path in folder.glob("checkpoint-*") if (path / MARK).is_file()]
    return sorted(marked, key=step_of)


def remove_incomplete(folder: Path) -> None:
    """Delete what a killed process left half-written, lest the Trainer writes into it."""
    for path in set(folder.glob("checkpoint-*")) - set(complete_checkpoints(folder)):
        shutil.rmtree(path)


def step_of(checkpoint: Path) -> int:
    """Return the number of steps that had been done."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def ended_at(checkpoint: Path) -> TrainerState | None:
    """Return the state in a checkpoint after which no step is left; None where some are.

    None is left when all are done, or when the loss is no number any more.
    """
    path = checkpoint / "trainer_state.json"
    check_regular(path, limit=MAX_DATA_BYTES)
    state = TrainerState.load_from_json(str(path))
    diverged = not all(math.isfinite(row.get("loss", 0.0)) for row in state.log_history)
    return state if diverged or state.global_step >= state.max_steps else None


def restore_adapter(network: Any, checkpoint: Path) -> None:
    """Load the adapter of a checkpoint, a saved head included, into the network that wrote it."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    path = checkpoint / "adapter_model.safetensors"
    check_regular(path)
    set_peft_model_state_dict(network, load_file(path))


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
