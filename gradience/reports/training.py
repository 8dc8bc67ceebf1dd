"""What a stage of Bench writes about itself. `training.json` has the examples, settings, starting point and result of a
training run. `manifest.json` is written last, and shows that the stage is finished."""

from typing import Any, Literal

from pydantic import Field

from gradience.files.artifact import Artifact, Float12, Part
from gradience.files.shared_names import PlainName
from gradience.reports.base.report import RunInfo

REPORT, ADAPTER = "training.json", "adapter"
"""Names of the report and of the adapter's folder in the folder of a training run."""


class TrainedExamples(Part):
    """The examples used for training."""

    task: str
    n: int
    sha256: str
    """sha256 over identities, texts and answers, in the task's order (not in the order of training)."""
    truncated: int
    """Texts truncated to `max_length` tokens (classification)."""
    left_out: int
    """Prompts left out because they are longer than `max_length` tokens with their answer."""
    tokens: int
    """Tokens of one pass over the examples, without padding."""


class Start(Part):
    """Starting point of a training run. Two runs with the same start and the same recipe are one run."""

    seed: int
    streams: dict[str, int]
    """The seed of each random stream, derived from `seed`."""
    initial_adapter_sha256: str
    """sha256 over names and bytes of everything trainable before the first step."""
    first_batch_sha256: str
    """sha256 over token ids and labels of the first batch that reached the model."""


class Earlier(Part):
    """Steps done before the training run resumed on a different device, or with different threads or versions."""

    until_step: int
    device: str
    threads: int
    versions: dict[str, str]


class TrainingReport(Artifact):
    """One training run and its adapter."""

    schema_: Literal["gradience.training/1"] = "gradience.training/1"
    base: str
    base_fingerprint: str
    """The commit on the hub, or sha256 over the names and hashes of the folder's files."""
    base_params: int
    dtype: str
    quantization: str | None
    device: str
    processes: int
    sequences_per_step: int | None = None
    """Examples per optimizer step over all processes, as counted by the Trainer; checked against the recipe.
    Null in files of earlier versions."""
    threads: int
    """Number of torch threads, on a CPU: a different number may give a different adapter."""
    lora: dict[str, Any]
    """Arguments of PEFT's LoraConfig."""
    recipe: dict[str, Any]
    trained: Literal["lora", "head"]
    """`head`: the LoRA stayed at B = 0 and only the head was trained (the control)."""
    examples: TrainedExamples
    start: Start
    steps: int
    planned_steps: int
    loss: Float12 | None
    """Mean over the steps since the last multiple of `logging_steps`; null if it was not finite."""
    diverged: bool
    """True if the loss was not finite, which stopped the training run."""
    resumed_from: list[int]
    """Steps at which the training run resumed."""
    earlier: list[Earlier] = Field(default_factory=list)
    """The first steps, if they were done on a different device or with different threads or versions."""
    lora_params: int
    other_params: int
    """Trained parameters other than LoRA factors, such as a classifier's head."""
    adapter_sha256: str
    """sha256 of adapter_model.safetensors."""
    versions: dict[str, str]
    seconds: Float12
    """Duration of the training steps in this process, excluding interrupted processes."""
    peak_memory_bytes: int | None
    """Peak memory that torch allocated on the GPU during this training run; null on a CPU."""
    run: RunInfo


MANIFEST = "manifest.json"


class StageFile(Part):
    """One file of a stage."""

    sha256: str
    bytes: int
    mtime_ns: int | None = None
    """Modification time in nanoseconds: the file is not hashed again while this time and its size are unchanged."""


class StageManifest(Artifact):
    """Inputs and outputs of a stage."""

    schema_: Literal["gradience.stage/1"] = "gradience.stage/1"
    stage: str
    key: str
    """sha256 over the stage's name, its version and everything that it depends on."""
    plan_digest: str | None = None
    """SHA-256 of plan.json, written before the first stage; null outside a planned run."""
    files: dict[PlainName, StageFile]
    """Path inside the stage's folder -> size and digest."""
    seconds: Float12
    """Seconds of the process that finished the stage, excluding earlier interrupted processes."""
    peak_memory_bytes: int | None
    """Peak memory that torch allocated on the GPU during the stage; null on a CPU."""
