"""`training.json`: what one adapter was trained on, with what, from which start, and how it ended."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gradience.files.artifact import Artifact, Float12, Part
from gradience.reports.base.run import RunInfo

REPORT, ADAPTER = "training.json", "adapter"
"""Names in the folder of a training."""


class TrainedExamples(Part):
    """The examples that were trained."""

    task: str
    n: int
    sha256: str
    """Over identities, texts and answers, in the task's order (not in the order of training)."""
    truncated: int
    """Texts that were cut at `max_length` tokens (classification)."""
    left_out: int
    """Prompts that were left out, because with their answer they are longer than `max_length` tokens."""
    tokens: int
    """Tokens of one pass over the examples, without padding."""


class Start(Part):
    """Where training started. Two runs with an equal start and an equal recipe are one run."""

    seed: int
    streams: dict[str, int]
    """The seed of each random stream, derived from `seed`."""
    initial_adapter_sha256: str
    """Over names and bytes of everything trainable before the first step."""
    first_batch_sha256: str
    """Over token ids and labels of the first batch that reached the model."""


class Earlier(Part):
    """Steps that were done elsewhere, before the training was taken up on another device or with other versions."""

    until_step: int
    device: str
    threads: int
    versions: dict[str, str]


class TrainingReport(Artifact):
    """One adapter, trained."""

    schema_: Literal["gradience.training/1"] = Field(default="gradience.training/1", alias="schema")
    base: str
    base_fingerprint: str
    """The commit on the hub, or sha256 over the names and hashes of the folder's files."""
    base_params: int
    dtype: str
    quantization: str | None
    device: str
    processes: int
    sequences_per_step: int | None = None
    """Examples of an optimizer step over all processes, as the Trainer counted them; checked against the recipe.
    Null in files of earlier versions."""
    threads: int
    """Of torch, on a CPU: another number may give another adapter."""
    lora: dict[str, Any]
    """The arguments of PEFT's LoraConfig."""
    recipe: dict[str, Any]
    trained: Literal["lora", "head"]
    """`head`: the LoRA stayed at B = 0 and only the head was trained (the control)."""
    examples: TrainedExamples
    start: Start
    steps: int
    planned_steps: int
    loss: Float12 | None
    """Mean over the steps since the last multiple of `logging_steps`; null where it was not a finite number."""
    diverged: bool
    """The loss was not a finite number, and training was stopped there."""
    resumed_from: list[int]
    """Steps at which the training was taken up again."""
    earlier: list[Earlier] = Field(default_factory=list)
    """Where the first steps were done, when that was on another device or with other threads or versions."""
    lora_params: int
    other_params: int
    """Trained parameters that are no LoRA factors: a classifier's head, for example."""
    adapter_sha256: str
    """Of adapter_model.safetensors."""
    versions: dict[str, str]
    seconds: Float12
    """In the trainings steps of this process; what an interrupted process had done is not in it."""
    peak_memory_bytes: int | None
    """During this training: on a GPU, what torch had allocated there at most; on a CPU, the largest resident size of
    the process. Null where the system cannot tell it from the process so far."""
    run: RunInfo
