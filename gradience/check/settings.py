"""One vocabulary for what six kinds of configuration files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gradience.ranks import scale_of


@dataclass(frozen=True, slots=True)
class Settings:
    """None means: not said. `where` names file and key of each setting that was."""

    objective: str | None = None
    """sft, pretraining, rl, preference, reward or distillation."""
    algorithm: str | None = None
    """The method as the tool names it: grpo, dpo, pt ..."""
    adapter: bool | None = None
    """False: by these settings no LoRA adapter is trained."""
    base_model: str | None = None
    peft_type: str | None = None
    task_type: str | None = None
    r: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: tuple[str, ...] | str | None = None
    """Names, or a regular expression, or `all-linear`; empty: none were named and nothing is taken instead."""
    target_parameters: bool | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    init: str | None = None
    bias: str | None = None
    lora_bias: bool | None = None
    modules_to_save: tuple[str, ...] | None = None
    rank_pattern: Mapping[str, Any] | None = None
    alpha_pattern: Mapping[str, Any] | None = None
    layers_to_transform: bool | None = None
    layers_pattern: bool | None = None
    loftq_config: bool | None = None
    megatron: bool | None = None
    quantized_bits: int | None = None
    learning_rate: float | None = None
    optimizer: str | None = None
    schedule: str | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    batch_size: int | None = None
    accumulation: int | None = None
    epochs: float | None = None
    max_steps: int | None = None
    precision: str | None = None
    evaluation: str | None = None
    saving: str | None = None
    eval_steps: float | None = None
    save_steps: float | None = None
    load_best: bool | None = None
    prompt_loss: bool | None = None
    """Whether the prompt is trained as well as the answer."""
    removed: tuple[str, ...] = ()
    """Keys that transformers 5 no longer takes."""
    unreadable: tuple[tuple[str, str, str], ...] = ()
    """(setting, value as written, what it should be) for values of the wrong kind."""
    where: Mapping[str, str] = field(default_factory=dict)

    @property
    def scale(self) -> float | None:
        """s = α/r, or α/√r with rsLoRA."""
        if not self.r or self.alpha is None or self.r < 1:
            return None
        return scale_of(self.alpha, self.r, use_rslora=bool(self.use_rslora))

    @property
    def effective_batch(self) -> int | None:
        """Rows per optimizer step on one device."""
        return self.batch_size * (self.accumulation or 1) if self.batch_size else None

    def filled_from(self, other: Settings) -> Settings:
        """Return these settings, and those of `other` where these say nothing."""
        added: dict[str, Any] = {}
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if item.name in ("removed", "unreadable"):
                added[item.name] = mine + theirs
            elif item.name == "where":
                added[item.name] = {**theirs, **mine}
            elif mine is None and theirs is not None:
                added[item.name] = theirs
        return replace(self, **added)
