"""Settings of a calibration and of a distillation: flags and keywords of Python under the same names."""

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Annotated

from pydantic import Field

from gradience.files.card import CardOf
from gradience.models.settings import BaseSettings
from gradience.progress import Progress
from gradience.settings import (
    Flag,
    Internal,
    OutputPath,
    Positive,
    PythonOnly,
    StrPath,
    settings_model,
    shared,
)

Seed = Annotated[int, Field(ge=0, lt=2**63)]


@settings_model(kw_only=True)
class RowSettings:
    """Prompts."""

    prompts: Annotated[StrPath, Flag("FILE")]
    """Rows with `prompt` (and optionally `completion`), `messages`, or `text` for a classifier (JSONL, CSV, TSV)."""
    limit: Annotated[Positive | None, Flag("N")] = None
    """Maximum number of examples, taken from the start."""
    completion_tokens: Annotated[Positive, Flag("N")] = 64
    """Length of the completions that are sampled for examples without one."""
    seed: Annotated[Seed, Flag("N")] = 42
    """Seed of everything random, such as sampled completions and the order of the examples."""
    batch_size: Annotated[Positive, Flag("N")] = 8
    """Examples per batch."""
    max_length: Annotated[Positive | None, Flag("N")] = None
    """Maximum tokens of an example (default: the limit of the base; 512 for a text to classify)."""
    left_out: Annotated[frozenset[str], Internal] = frozenset()
    """Digests of prompts that are not read, since they are tested: the `prompt_ids` of a calibration."""
    progress: Annotated[Progress | None, PythonOnly] = None
    """A callback after each batch or step: progress(done, total)."""
    note: Annotated[Callable[[str], None] | None, Internal] = None
    """A callback for each remark about the inputs, before anything is run."""
    command: Annotated[str, Internal] = ""
    """The command line that the report names."""


@settings_model()
class CalibrateSettings(BaseSettings, RowSettings):
    """Adapter and output."""

    adapter: Annotated[StrPath, Flag("ADAPTER")]
    """Folder of a LoRA adapter of a causal language model or of a sequence classifier."""
    output: Annotated[OutputPath | None, Flag("FILE", "-o")] = None
    """The calibration to write, a .safetensors file."""
    _: KW_ONLY
    force: bool = False
    """Replace an existing file."""
    dry_run: bool = False
    """Check the inputs and show the plan, without loading a model."""


@settings_model()
class DistillSettings(BaseSettings, RowSettings):
    """Adapters, output and training."""

    adapter: Annotated[StrPath, Flag("SMALL")]
    """Folder of the smaller LoRA adapter, such as `gradience compress` writes."""
    output: Annotated[OutputPath | None, Flag("DIR", "-o")] = None
    """Folder of the distilled adapter."""
    _: KW_ONLY
    teacher: Annotated[StrPath, Flag("REFERENCE")]
    """Folder of the reference adapter that the smaller one was made from."""
    steps: Annotated[Positive, Flag("N")] = 100
    """Maximum number of optimizer steps; a tenth of the training's is a good start."""
    lr: Annotated[float, Flag("RATE")] = 3e-4
    """Peak AdamW learning rate: 20 % warm-up, then linear decay to 0."""
    force: bool = False
    """Replace an existing adapter folder."""
    dry_run: bool = False
    """Check the inputs and show the plan, without loading a model."""
    card: Annotated[CardOf | None, Internal] = None
    """Makes the model card from the folder that was written."""

    @property
    def student(self) -> CalibrateSettings:
        """The smaller adapter, the rows and the base, as a calibration takes them."""
        return CalibrateSettings(**shared(self, CalibrateSettings))
