"""The settings of a base model: typed, strict, in the words that users know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """A section of a config: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelSettings(Settings):
    """The base model and how it is loaded."""

    name: str
    """A hub name, a folder, or `embedded:minilm` or `embedded:smollm2` (from the package index)."""
    type: Literal["seqcls", "causal_lm"] = "seqcls"
    revision: str | None = None
    """A commit of the hub's repository."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the frozen weights. LoRA factors are trained in float32. `auto` is what the checkpoint says."""
    quantization: Literal["nf4"] | None = None
    """`nf4`: the base in 4 bits through bitsandbytes (QLoRA)."""
    gradient_checkpointing: bool = False
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None


def several_processes(model: ModelSettings, processes: int) -> str:
    """Why `processes` cannot train this model together; empty when they can."""
    if model.quantization and processes > 1:
        return f"a 4-bit base is trained in one process, not {processes}: set `runtime.processes: 1`"
    return ""
