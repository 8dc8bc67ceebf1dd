"""What a stage takes of a machine: GPUs by the config, memory by the forecast of the run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from gradience.artifacts.forecast import CostEstimate
from gradience.artifacts.stage_spec import StageNeeds
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.forecast import forecast
from gradience.errors import GradienceError

PROCESS_BYTES = 2 * 2**30
"""Of a process besides what it computes with: Python, PyTorch, the libraries around them, and an adapter."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the stages of a run need."""

    processes: int
    """Of a training, each with a GPU of its own."""
    threads: int
    cost: CostEstimate | None
    """Of a seed; None where nothing could be computed."""

    @classmethod
    def of(cls, config: BenchConfig, *, on_gpus: bool) -> Needs:
        """Return the needs by the forecast.

        on_gpus: the machines that compute have GPUs; of a cluster only its executor knows: a login node has none.
        """
        if on_gpus and config.runtime.device == "auto":
            runtime = config.runtime.model_copy(update={"device": "cuda"})
            config = config.model_copy(update={"runtime": runtime})
        try:
            cost = forecast(config).cost
        except GradienceError:  # what cannot be had here is said by the stage that needs it
            cost = None
        return cls(config.runtime.processes, torch.get_num_threads(), cost)

    def of_stage(self, stage: str, healed: Collection[str] = ()) -> StageNeeds:
        """Those of one stage. healed: names of stages that train the adapter which they write."""
        variant, _, what = stage.rpartition("/")
        if (not variant and what == "audit") or (what == "adapter" and stage not in healed):
            return StageNeeds(cpus=self.threads, memory_bytes=PROCESS_BYTES)
        gpus = self.processes if what == "train" else 1
        if self.cost is None:
            return StageNeeds(gpus=gpus, cpus=self.threads)
        working = self.cost.trained_bytes + self.cost.activation_bytes
        memory = self.cost.weights_bytes + (self.cost.evaluation_bytes if what == "eval" else working)
        return StageNeeds(
            gpus=gpus,
            cpus=self.threads,
            memory_bytes=memory + (PROCESS_BYTES if self.cost.process_bytes else 0),
        )
