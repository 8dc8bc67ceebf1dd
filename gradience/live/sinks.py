"""Send measurements to the experiment trackers that the run already reports to.

Nothing is imported that the run does not use, no run is started and none is ended: the Trainer's own
integrations do that, and this joins the run that they opened. Tags begin with `gradience/`.
"""

import importlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

CHARTS = ("energy_rank_90_p50", "energy_rank_90_p90", "stable_rank_median", "utilization_median", "fro_norm")
"""Fields of a measurement's summary that are charted."""


class Sink(NamedTuple):
    """A tracker (TensorBoard, W&B, …) that draws numbers over steps."""

    send: Callable[[Mapping[str, float], int], None]
    """Record finite numbers at a training step."""
    close: Callable[[], None] = lambda: None
    """Close what this sink opened. Most sinks use the Trainer's run and open nothing."""


def chart_values(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return tag -> value for the charted fields of a measurement's summary."""
    return {
        f"gradience/{key}": float(summary[key])
        for key in CHARTS
        if summary[key] is not None and math.isfinite(summary[key])
    }


def _tensorboard(output_dir: Path) -> Sink:
    """Scalars in a folder of their own inside the log folder that the Trainer's integration has just opened.

    TensorBoard follows one event file per folder: a second file beside the Trainer's would make it stop
    reading the first, so this is shown as a run of its own, `.../gradience`.
    """
    from torch.utils.tensorboard import SummaryWriter

    runs = output_dir / "runs"
    folders = [folder for folder in runs.iterdir() if folder.is_dir()] if runs.is_dir() else []
    newest = max(folders, key=lambda folder: folder.stat().st_mtime, default=runs)
    chosen = os.environ.get("TENSORBOARD_LOGGING_DIR")
    writer = SummaryWriter(log_dir=str((Path(chosen).expanduser() if chosen else newest) / "gradience"))

    def send(values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            writer.add_scalar(tag, value, step)
        writer.flush()

    return Sink(send, writer.close)


def _wandb(output_dir: Path) -> Sink:
    """The Weights & Biases run that is active; its x axis is the Trainer's `train/global_step`."""
    wandb = importlib.import_module("wandb")

    def send(values: Mapping[str, float], step: int) -> None:
        if wandb.run is not None:
            wandb.log({**values, "train/global_step": step})

    return Sink(send)


def _mlflow(output_dir: Path) -> Sink:
    """The MLflow run that was active when training began."""
    mlflow = importlib.import_module("mlflow")
    run = mlflow.active_run()

    def send(values: Mapping[str, float], step: int) -> None:
        if run is not None:
            mlflow.log_metrics(dict(values), step=step, run_id=run.info.run_id)

    return Sink(send)


def _trackio(output_dir: Path) -> Sink:
    """The Trackio run that is active."""
    trackio = importlib.import_module("trackio")
    return Sink(lambda values, step: trackio.log({**values, "train/global_step": step}))


SINKS: dict[str, Callable[[Path], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}


def open_sinks(names: Iterable[str], output_dir: Path) -> dict[str, Sink]:
    """Open the sinks of the known `names`."""
    return {name: SINKS[name](output_dir) for name in names if name in SINKS}
