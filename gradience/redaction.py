"""Redaction: secrets and home folders in every text that is shared, and what run.jsonl does not record at all.

Tokens are found by the forms that their issuers document so that scanners find them. As a dependency, detect-secrets
1.5.0 would add five packages and 0.3 s to every start, and its formats cover 17 of the 47 kinds of
tests/test_secrets.py. It checks this list instead: what its detectors find there is hidden.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping

SECRET_FIELDS = re.compile(
    r"(^|[_.-])(api_?keys?|private_?keys?|access_?keys?|secret_?keys?|account_?keys?|auth|authorization|bearer|credentials?|"
    r"passw(or)?ds?|pwd|secrets?|(?<!pad_)(?<!eos_)(?<!bos_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)token|"
    r"(access|hub|auth)_?tokens?)$",
    re.IGNORECASE,
)
"""Names of settings that hold a secret. `num_tokens`, `pad_token` and `pad_token_id` are not secrets."""

REDACTED = "[REDACTED secret]"
_ISSUED = r"""
    hf_[A-Za-z0-9]{20,} | api_org_[A-Za-z0-9]{20,} | wandb_v1_[A-Za-z0-9_]{20,} | KGAT_[A-Za-z0-9]{20,}
  | sk-[A-Za-z0-9_-]{16,} | gsk_[A-Za-z0-9]{20,} | xai-[A-Za-z0-9]{20,} | pplx-[A-Za-z0-9]{20,}
  | nvapi-[A-Za-z0-9_-]{20,} | r8_[A-Za-z0-9]{20,} | pcsk_[A-Za-z0-9_]{20,} | lsv2_(?:pt|sk)_[A-Za-z0-9_]{20,}
  | tgp_v1_[A-Za-z0-9_-]{20,} | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,}
  | gl[a-z]{2,5}-[A-Za-z0-9_-]{16,} | GR1348941[A-Za-z0-9_-]{20,} | xox[a-z]-[A-Za-z0-9-]{10,}
  | xapp-[A-Za-z0-9-]{10,} | hooks\.slack\.com/services/[A-Za-z0-9/_]{10,}
  | discord(?:app)?\.com/api/webhooks/[0-9]+/[A-Za-z0-9_-]{20,}
  | [MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}
  | (?:A3T[A-Z0-9]|A(?:KIA|SIA|BIA|CCA))[A-Z0-9]{16} | AIza[A-Za-z0-9_-]{30,} | ya29\.[A-Za-z0-9_-]{20,}
  | GOCSPX-[A-Za-z0-9_-]{20,} | eyJ[A-Za-z0-9_=-]{8,}\.[A-Za-z0-9_=-]{8,}(?:\.[A-Za-z0-9_.+/=-]*)?
  | [a-zA-Z0-9_~.]{3}[0-9]Q~[a-zA-Z0-9_~.-]{31,34} | (?:[srp]k_(?:live|test|prod)|whsec)_[A-Za-z0-9]{10,}
  | SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,} | (?:SK|AC)[a-z0-9]{32}\b | npm_[A-Za-z0-9]{30,}
  | pypi-[A-Za-z0-9_-]{40,} | rubygems_[a-f0-9]{40,} | dckr_[po]at_[A-Za-z0-9_-]{20,}
  | [0-9]{8,10}:[A-Za-z0-9_-]{35}\b | [0-9a-f]{32}-us[0-9]{1,2}\b | key-[0-9a-f]{32}\b
  | sq0[a-z]{3}-[A-Za-z0-9_\\-]{22,} | shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32} | do[opr]_v1_[a-f0-9]{40,}
  | dapi[a-f0-9]{32} | hv[sbr]\.[A-Za-z0-9_-]{24,} | glc_[A-Za-z0-9+/=]{32,} | glsa_[A-Za-z0-9_]{32,}
  | sntry[su]_[A-Za-z0-9+/=_-]{32,} | NRAK-[A-Z0-9]{27} | PMAK-[a-f0-9-]{50,} | lin_api_[A-Za-z0-9]{32,}
  | ntn_[A-Za-z0-9]{40,} | ATATT3[A-Za-z0-9_=-]{50,} | figd_[A-Za-z0-9_-]{30,} | HRKU-[A-Za-z0-9_-]{30,}
  | tskey-[a-z]+-[A-Za-z0-9-]{16,} | sbp_[a-f0-9]{40} | pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{32,}
  | AKC[A-Za-z0-9]{10,} | AP[0-9A-F][A-Za-z0-9]{40,} | [A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{50,}
  | AGE-SECRET-KEY-1[A-Z0-9]{50,}
"""
_SECRETS = re.compile(
    rf"""
    (?P<key>-----BEGIN[ ][A-Z0-9 ]*PRIVATE[ ]KEY(?:[ ]BLOCK)?-----.*?(?:-----END[ ][A-Z0-9 ]*-----|\Z)
      | PuTTY-User-Key-File-[0-9].*)
  | (?<![A-Za-z0-9_])(?P<issued>{_ISSUED})
  | (?<=://)(?P<login>[^/\s@?\#]{{1,256}}(?=@))
  | (?i:(?<![A-Za-z])(?:bearer|basic|token)\s+(?=[^\s]*[0-9]))(?P<header>[A-Za-z0-9._~+/=-]{{16,}})
  | (?i:[?&](?:x-(?:amz|goog|ms)-[a-z-]*(?:signature|credential|token)|signature|sig|policy|key-pair-id|awsaccesskeyid|
      googleaccessid|[a-z_-]*token|key|code)=)(?P<query>[^&\s'"]{{8,}})
  | (?i:wandb[^\n]{{0,40}}?)\b(?P<wandb>[0-9a-f]{{40}})\b
  | (?<![A-Za-z0-9/+])(?P<noise>[A-Za-z0-9/+]{{40}})(?![A-Za-z0-9/+=])
  | (?<![A-Za-z0-9_.-])(?P<name>[A-Za-z0-9_.-]{{1,64}})["']?\s{{0,3}}[=:]\s{{0,3}}["']?
      (?!(?i:bearer|basic|token)\s)(?P<value>(?<=")[^"]{{4,512}}|(?<=')[^']{{4,512}}|[^\s"',;&\]}})]{{4,512}})
    """,
    re.VERBOSE | re.DOTALL,
)
_HOMES = re.compile(r"(?i:(?<![A-Za-z0-9_.])(?:[A-Z]:)?[\\/](?:home|users)[\\/])[^\\/\s'\",;:=)\]}]+")


def shareable(text: str) -> str:
    """Return a text with each secret in it replaced by a mark, and each home folder by `~`.

    >>> shareable("HF_TOKEN=hf_abcdefghijklmnopqrstuv, cache /home/alice/.cache")
    'HF_TOKEN=[REDACTED secret len=25], cache ~/.cache'
    """
    return _HOMES.sub("~", without_secrets(text))


def without_secrets(text: str) -> str:
    """Return a text with each secret in it replaced by a mark that says how long it was."""
    parts, end, place = [], 0, 0
    while match := _SECRETS.search(text, place):
        group = match.lastgroup or ""
        secret, start = match[group], match.start(group)
        if group == "value" and not _is_secret(match["name"], secret):
            place = start  # another rule may find something in it
        elif group == "noise" and not _is_noise(secret):
            place = match.end()
        else:
            parts += [text[end:start], f"[REDACTED secret len={len(secret)}]"]
            place = end = match.end(group)
    return "".join([*parts, text[end:]])


def _is_secret(name: str, value: str) -> bool:
    return SECRET_FIELDS.search(name) is not None and not value.startswith("[REDACTED")


def _is_noise(text: str) -> bool:
    """Return True if 40 characters are as random as an AWS secret access key: words have under 4.3 bits a character."""
    if not (re.search("[a-z]", text) and re.search("[A-Z]", text) and re.search("[0-9]", text)):
        return False
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares) > 4.4


# ---------------------------------------------------------------- run.jsonl
#
# A log of a training run is read by colleagues, attached to issues and kept for years. So strings that look
# like data (prompts, completions) or secrets (access tokens), or that contain a person's name (home folders,
# e-mail addresses), are replaced by a mark with their kind and length. Numbers are always kept. The rules are
# deliberately simple: a length, a list of field names, and a few patterns with bounded work.

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
