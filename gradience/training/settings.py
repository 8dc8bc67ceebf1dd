"""Settings of the adapter and of its training: typed, strict, in the words that users know; and the seeds of a run.

One seed for a run, and a random stream of its own for everything that is drawn. A head that is made with more classes,
or an adapter with another rank, consumes another amount of randomness. With one stream for all, every later draw would
move; with named streams the data keep their order.
"""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from gradience.adapters.config import MAX_ALPHA, MIN_ALPHA
from gradience.digests import sha256_text
from gradience.models.settings import ConfigSection, Share
from gradience.settings import Positive

Stream = Literal["base", "lora", "data order", "training"]
"""Random streams: new weights of the base (a fresh head), LoRA factors, order of the examples, and dropout."""
STREAMS: tuple[Stream, ...] = get_args(Stream)


def stream(seed: int, name: Stream) -> int:
    """Return the seed of one stream: 31 bits of sha256, so that neighboring seeds have nothing in common."""
    return int(sha256_text(f"{seed}/{name}")[:8], 16) >> 1


class LoraSettings(ConfigSection):
    """The probe's adapter."""

    probe_r: Positive
    """Rank of the probe."""
    alpha: Annotated[float, Field(ge=MIN_ALPHA, le=MAX_ALPHA)]
    """`lora_alpha` of the probe. Smaller adapters keep its α/r."""
    dropout: Share = 0.0
    """`lora_dropout`."""
    target_modules: list[str] | str = "all-linear"
    """As in PEFT: module names, a regular expression, or `all-linear`."""
    use_rslora: bool = False
    """Scale the update by α/√r instead of α/r."""
    use_dora: bool = False
    """Train with DoRA."""
    modules_to_save: list[str] | None = None
    """Modules trained in full, as in PEFT."""

    def peft_arguments(self) -> dict[str, Any]:
        """Return the probe's arguments of PEFT's LoraConfig."""
        arguments = {
            "r": self.probe_r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            **self.model_dump(exclude={"probe_r", "alpha", "dropout"}),
        }
        return {name: value for name, value in arguments.items() if value not in (None, False)}


class TrainSettings(ConfigSection):
    """The recipe. Either `max_steps` or `epochs`."""

    max_steps: Positive | None = None
    """Optimizer steps."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training examples."""
    lr: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    lr_scheduler_type: str = "linear"
    """Scheduler, by the name that transformers uses."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Warm-up in steps. Default: none."""
    warmup_ratio: Share | None = None
    """Warm-up as a share of the steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of the optimizer."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this norm; 0: no clipping."""
    optim: str = "adamw_torch"
    """Optimizer, by the name that transformers uses."""
    per_device_train_batch_size: Positive = 16
    """Training examples per batch."""
    gradient_accumulation_steps: Positive = 1
    """Batches per optimizer step."""
    per_device_eval_batch_size: Positive = 64
    """Examples per batch of an evaluation."""
    max_length: Positive = 512
    """Maximum tokens of an example. For classification, longer texts are truncated; otherwise longer examples are
    left out of training. Both are counted."""
    bf16: bool = False
    """Mixed precision: autocast to bfloat16."""
    logging_steps: Positive = 10
    """Steps between two lines of the training log."""
    save_steps: Positive | None = None
    """Steps between checkpoints to resume from; they are removed when training is done. Default: no checkpoints."""
    train_samples: Positive | None = None
    """Number of training examples, taken from the start (their order is as good as random). Default: all."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `max_steps` and `epochs`")
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("give only one of `warmup_steps` and `warmup_ratio`")
        return self
