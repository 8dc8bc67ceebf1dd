"""One vocabulary for what the configuration files of all tools say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradience.ranks import scale_of
from gradience.reports.check import SettingsRead


class Settings(SettingsRead):
    """What a report shows of the files, and what rules need beside that. None: not said."""

    dropout: float | None = None
    target_parameters: bool | None = None
    bias: str | None = None
    lora_bias: bool | None = None
    modules_to_save: tuple[str, ...] | None = None
    rank_pattern: Mapping[str, Any] | None = None
    alpha_pattern: Mapping[str, Any] | None = None
    layers_to_transform: bool | None = None
    layers_pattern: bool | None = None
    loftq_config: bool | None = None
    megatron: bool | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    batch_size: int | None = None
    accumulation: int | None = None
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
    where: Mapping[str, str] = {}
    """File and key of each setting that was read."""

    def filled_from(self, other: Settings) -> Settings:
        """Return these settings, and those of `other` where these say nothing."""
        said = {name: value for name, value in self if value is not None}
        both = {
            "removed": self.removed + other.removed,
            "unreadable": self.unreadable + other.unreadable,
            "where": {**other.where, **self.where},
        }
        return other.model_copy(update={**said, **both})

    def completed(self) -> Settings:
        """Return these settings with what follows from them: the scale, and the rows of an optimizer step."""
        scale = rows = None
        if self.r and self.r >= 1 and self.alpha is not None:
            scale = scale_of(self.alpha, self.r, use_rslora=bool(self.use_rslora))
        if self.batch_size:
            rows = self.batch_size * (self.accumulation or 1)
        return self.model_copy(update={"scale": scale, "effective_batch_size": rows})
