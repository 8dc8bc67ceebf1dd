"""The settings of a base model: typed, strict, in the words that users know."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """A section of a config: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


ModelType = Literal["seqcls", "causal_lm", "seq2seq_lm"]


class ModelSettings(Settings):
    """The base model and how it is loaded."""

    name: str
    """A hub name, a folder, or `embedded:minilm` or `embedded:smollm2` (from the package index)."""
    type: ModelType = "seqcls"
    """`seq2seq_lm` (encoder–decoder) is evaluated and not trained: a config of Bench cannot have it."""
    folder: str | None = Field(default=None, exclude=True)
    """Where the relative path of a `name` starts: as of `task.folder`."""
    tokenizer: str | None = Field(default=None, exclude=True)
    """Folder of the adapter whose tokenizer is used; None: the base's. No config of Bench has it."""
    from_adapter: bool = Field(default=False, exclude=True)
    """An adapter's config chose `name`, not the user: the base is read only from safetensors."""
    revision: str | None = None
    """A commit of the hub's repository."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the frozen weights. LoRA factors are trained in float32. `auto` is what the checkpoint says."""
    quantization: Literal["nf4"] | None = None
    """`nf4`: the base in 4 bits through bitsandbytes (QLoRA)."""
    gradient_checkpointing: bool = False
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None

    @property
    def path(self) -> Path:
        """The folder that `name` means, if it is one."""
        return Path(self.folder or "", self.name)

    def whole(self) -> ModelSettings:
        """The same settings for another process, which is told no `folder`."""
        if self.folder is None or not self.path.exists():
            return self
        return self.model_copy(update={"name": str(self.path), "folder": None})


def several_processes(model: ModelSettings, processes: int) -> str:
    """Why `processes` cannot train this model together; empty when they can."""
    if model.quantization and processes > 1:
        return f"a 4-bit base is trained in one process, not {processes}: set `runtime.processes: 1`"
    return ""
