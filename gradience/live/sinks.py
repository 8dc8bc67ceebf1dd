"""The experiment trackers that the run already reports to: what is measured also goes there.

Nothing is imported that the run does not use, no run is started and none is ended: the Trainer's own
integrations do that, and this joins the run that they opened. Tags begin with `gradience/`.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gradience.live import Snapshot

PREFIX = "gradience/"


class Sink(ABC):
    """A tracker (TensorBoard, W&B, …) that draws numbers over steps."""

    @abstractmethod
    def send(self, values: Mapping[str, float], step: int) -> None:
        """Record finite numbers at a training step."""

    def close(self) -> None:  # noqa: B027  (most have nothing of their own: the run is the Trainer's)
        """Release what this sink opened itself."""


MAX_CHARTS = 12
OVERALL = ("energy_rank_90_p50", "energy_rank_90_p90", "stable_rank_median", "utilization_median", "fro_norm")
BY_FAMILY = "energy_rank_90_p90"
MAX_TAG = 200


def chart_values(snapshot: Snapshot, *, everything: bool = False) -> dict[str, float]:
    """Return the numbers of one measurement worth a chart, at most twelve: overall, and k@90 of the first families.

    everything: each number overall and of each family; still never one chart for each module.
    """
    metrics = snapshot.to_metrics()
    families: Mapping[str, Mapping[str, Any]] = metrics["by_family"]  # type: ignore[assignment]
    groups: dict[str, Mapping[str, Any]] = {"": metrics["summary"]}  # type: ignore[dict-item]
    groups |= {f"{tag_of(family)}/": values for family, values in families.items()}
    if not everything:
        few = {"": {key: groups[""][key] for key in OVERALL}}
        shown = list(families)[: MAX_CHARTS - len(OVERALL)] if len(families) > 1 else []
        groups = few | {f"{tag_of(family)}/": {BY_FAMILY: families[family][BY_FAMILY]} for family in shown}
    return {
        f"{PREFIX}{group}{key}": float(value)
        for group, values in groups.items()
        for key, value in values.items()
        if value is not None and math.isfinite(value) and key not in ("seconds", "modules")
    }


def tag_of(name: str) -> str:
    """Return a name as part of a tag: what is no letter, digit, dot, star or hyphen becomes `_`; a long one is cut.

    The pages of trackers are made by others, and modules are named by whoever wrote the model.
    """
    return re.sub(r"[^\w.*-]", "_", name)[:MAX_TAG]


class TensorBoardSink(Sink):
    """Scalars in a folder of their own inside the run's log folder.

    TensorBoard follows one event file per folder: a second file beside the Trainer's would make it stop
    reading the first, so this is shown as a run of its own, `.../gradience`.
    """

    def __init__(self, output_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir=str(newest_log_folder(output_dir) / "gradience"))

    def send(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def newest_log_folder(output_dir: Path) -> Path:
    """Return where the Trainer's TensorBoard integration, which starts first, has just opened its log."""
    if chosen := os.environ.get("TENSORBOARD_LOGGING_DIR"):
        return Path(chosen).expanduser()
    runs = output_dir / "runs"
    folders = [folder for folder in runs.iterdir() if folder.is_dir()] if runs.is_dir() else []
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=runs)


class WandbSink(Sink):
    """The Weights & Biases run that is active; its x axis is the Trainer's `train/global_step`."""

    def __init__(self) -> None:
        self._wandb = importlib.import_module("wandb")

    def send(self, values: Mapping[str, float], step: int) -> None:
        if self._wandb.run is not None:
            self._wandb.log({**values, "train/global_step": step})


class MlflowSink(Sink):
    """The MLflow run that was active when training began."""

    def __init__(self) -> None:
        self._mlflow = importlib.import_module("mlflow")
        run = self._mlflow.active_run()
        self._run_id = run.info.run_id if run else None

    def send(self, values: Mapping[str, float], step: int) -> None:
        if self._run_id is not None:
            self._mlflow.log_metrics(dict(values), step=step, run_id=self._run_id)


class TrackioSink(Sink):
    """The Trackio run that is active."""

    def __init__(self) -> None:
        self._trackio = importlib.import_module("trackio")

    def send(self, values: Mapping[str, float], step: int) -> None:
        self._trackio.log({**values, "train/global_step": step})


def open_sinks(names: Iterable[str], output_dir: Path) -> dict[str, Sink]:
    """Open the sinks for those of `names` that are known: tensorboard, wandb, mlflow, trackio."""
    makers: dict[str, Callable[[], Sink]] = {
        "tensorboard": lambda: TensorBoardSink(output_dir),
        "wandb": WandbSink,
        "mlflow": MlflowSink,
        "trackio": TrackioSink,
    }
    return {name: makers[name]() for name in names if name in makers}
