"""Redaction: strings that are not written to run.jsonl by default.

A log of a training run is read by colleagues, attached to issues and kept for years. So strings that look
like data (prompts, completions) or secrets (access tokens), or that contain a person's name (home folders,
e-mail addresses), are replaced by a mark with their kind and length. Numbers are always kept. The rules are
deliberately simple: a length, a list of field names, and a few patterns with bounded work.
"""

import re
from collections.abc import Mapping

from gradience.redaction import SECRET_FIELDS, shareable, without_secrets

DATA_FIELDS = frozenset(
    {
        "answer", "completion", "content", "example", "examples", "generation", "input", "inputs",
        "input_ids", "instruction", "label_text", "labels", "messages", "output_text",
        "prediction_text", "prompt", "prompts", "query", "question", "reference", "response",
        "sample", "samples", "system_prompt", "text", "texts",
    }
)  # fmt: skip
"""Fields with a model's inputs or outputs."""

KEY_FIELDS = re.compile(r"key(s|_?id)?$", re.IGNORECASE)
"""Fields that may hold a key, such as `wandb_key`, or a name, such as `sort_key`: what looks like noise is a key."""
NOISE = re.compile(r"^(?=.*[0-9])[A-Za-z0-9+/_=-]*[A-Za-z0-9]{16}[A-Za-z0-9+/_=-]*$")
"""No space and no dot, a digit, and 16 letters and digits in a row."""

EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,4}")
PATH = re.compile(r"^(~|/|\\\\|[A-Za-z]:[\\/]|file://)")
OPAQUE = re.compile(r"^(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9+/_=-]{32,}$")
"""A long run of letters and digits without a space: a key far more often than a name."""

HEX_DIGEST = re.compile(r"^(sha256:)?[0-9a-f]{40}([0-9a-f]{24})?$")
UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


MAX_CHARS = 256
"""Longer strings are replaced."""


def clean(payload: Mapping[str, object]) -> dict[str, object]:
    """Return `payload` with what must not be recorded replaced by a mark."""
    return {str(key): _value(value, str(key), data=False) for key, value in payload.items()}


def _value(value: object, field: str, *, data: bool) -> object:
    """`data`: a field above this one holds what a model was shown or said. Numbers are kept even there:
    a mapping from module names (BERT has one called `query`) to measures must survive."""
    field = field.rsplit(".", 1)[-1]
    data = data or field in DATA_FIELDS
    if isinstance(value, str):
        if reason := "data" if data else reason_to_redact(value, field):
            return f"[REDACTED {reason} len={len(value)}]"
        return short_path(value) if PATH.match(value) else shareable(value)
    if isinstance(value, Mapping):
        return {
            # Keys are names, but a mapping keyed by prompts has been seen.
            key if len(key) <= MAX_CHARS else f"[REDACTED name len={len(key)}]": _value(item, key, data=data)
            for key, item in ((str(key), item) for key, item in value.items())
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        if data:
            return f"[REDACTED data len={len(value)}]"
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_value(item, field, data=False) for item in items]
    return value


def reason_to_redact(text: str, field: str) -> str | None:
    """Why a string is not recorded; None if it is."""
    if SECRET_FIELDS.search(field) or (KEY_FIELDS.search(field) and NOISE.match(text)):
        return "secret"
    if len(text) > MAX_CHARS:
        return "long"
    if "\n" in text:
        return "text"
    if without_secrets(text) != text:
        return "secret"
    if EMAIL.search(text):
        return "e-mail"
    if OPAQUE.match(text) and not (HEX_DIGEST.match(text) or UUID.match(text)):
        # A name made of words (`TinyLlama_v1-chat-finetune-2024-experiment`) is no noise.
        return None if max(map(len, re.split(r"[/_=+-]+", text))) < 20 else "opaque"
    return None


def short_path(text: str) -> str:
    """An absolute path without the folders above its last part, which often name a person.

    `/home/alice/models/mistral` -> `[path]/mistral`; a home folder itself -> `[path]`.
    """
    parts = [part for part in re.split(r"[\\/]+", text) if part]
    above = [part.casefold() for part in parts[:-1]]
    if not above or above[-1] in ("home", "users", "file:"):
        return "[path]"
    return f"[path]/{parts[-1]}"
