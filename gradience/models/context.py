"""How many tokens a base can tell apart, by its config."""

from __future__ import annotations

from typing import Any


def context_of(config: Any) -> int | None:
    """Return the context of the text model in transformers' `config`; None where it names none, or no limit.

    >>> from transformers import LlamaConfig, XLNetConfig
    >>> context_of(LlamaConfig(max_position_embeddings=512)), context_of(XLNetConfig())
    (512, None)
    """
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None  # XLNet writes −1
