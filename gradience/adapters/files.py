"""File type detection: safetensors weights, or other files, methods and models, which are refused with a hint.

A format that becomes supported moves from here to `formats.py`.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from gradience.adapters.tensors import TensorEntry
from gradience.errors import InputError
from gradience.files import strict_json
from gradience.reading import MAX_SETTINGS_BYTES, open_regular, read_file

_LFS = b"version https://git-lfs.github.com/spec/"
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of a pickle under any name: no text in UTF-8 begins so."""
GGUF_HINT = "rename the file so that it ends in .gguf, and point at it"
_MAGICS = {
    b"GGUF": "a GGUF file",
    b"PK\x03\x04": "a zip archive (what torch.save writes)",
    **dict.fromkeys(PICKLE_STARTS, "a Python pickle"),
}
"""First bytes -> the kind of file."""


class Closing(ABC):
    """A context manager that calls `close` at its end."""

    @abstractmethod
    def close(self) -> None:
        """Close the open files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def kept_open(path: Path, root: Path | None) -> Iterator[int]:
    """A file open for reading, which is closed if something is raised within. Raises as `open_regular` does."""
    handle = open_regular(path, root=root)
    try:
        yield handle
    except BaseException:  # Ctrl-C as well: nobody else knows the handle yet
        os.close(handle)
        raise


def read_object(path: Path, *, root: Path | None = None, limit: int = MAX_SETTINGS_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises InputError: bad-config if the JSON is not an object, and what `read_file`, `refuse_disguise` and
    `strict_json` raise.
    """
    text = read_file(path, limit, root=root)
    refuse_disguise(path, text[:1024])
    fields = strict_json.loads(text, path, path.name)
    if not isinstance(fields, dict):
        raise InputError(
            f"{path}: it is not a JSON object", code="bad-config", hint="download it or save it again"
        )
    return fields


def pickle_hint(adapter: str) -> str:
    """Return the hint for an adapter whose weights are a pickle."""
    return (
        "Pickle files can run code. Add --allow-pickle to read it in a sandboxed process. For a command without this "
        f"option, convert the adapter first: gradience convert {adapter} converted --allow-pickle"
    )


def refuse_placeholder(path: Path, head: bytes) -> None:
    """Raise InputError when `head` (the first bytes) shows that this is only a placeholder for a file.

    Codes: empty-file, lfs-pointer, html-page.
    """
    if not head:
        raise InputError(
            f"{path}: the file is empty", code="empty-file", hint="download or save the adapter again"
        )
    if head.startswith(_LFS):
        size = re.search(rb"^size (\d{1,19})$", head, re.MULTILINE)
        real = f" of a file of {int(size[1]):,} bytes" if size else ""
        raise InputError(
            f"{path}: a Git LFS pointer{real}, not the file itself",
            code="lfs-pointer",
            hint="run `git lfs pull` in the repository, or download it with `hf download`",
        )
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(
            f"{path}: a web page, not the file itself (the download got an error or login page)",
            code="html-page",
            hint="download it again with `hf download`, logged in if the repository is gated",
        )


def refuse_disguise(path: Path, head: bytes) -> None:
    """Raise InputError when `head` shows that the file is something else than its name says.

    Codes: those of `refuse_placeholder`, and wrong-format.
    """
    refuse_placeholder(path, head)
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            hint = GGUF_HINT if magic == b"GGUF" else pickle_hint(str(path))
            raise InputError(f"{path}: this is {kind}", code="wrong-format", hint=hint)


# ---------------------------------------------------------------- other methods, tools and models

LOHA_HINT = (
    "only LoRA adapters can be read. Convert LoHa or LoKr with peft.save_as_lora(FOLDER, model, rank), then use that"
    " folder; load LyCORIS files with the lycoris library first"
)
MLX_HINT = "rename the weights to adapters.safetensors, as mlx-lm names them, and keep adapter_config.json beside them"
RENAME_HINT = (
    "rename the file: Gradience looks for PEFT's tensors under this name (MLX-LM's is adapters.safetensors)"
)


TENSORS: Mapping[str, str] = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "ia3_": "IA3",
    "vera_": "VeRA",
    "boft_": "BOFT",
    "oft_": "OFT",
    "prompt_embeddings": "prompt tuning",
}
"""How a part of the names of a method's tensors begins -> the method, for files without a config."""


def refuse_method(path: Path, what: str) -> InputError:
    """The error for an adapter of another method than LoRA. what: what the file has instead."""
    convertible = any(method in what.upper() for method in ("LOHA", "LOKR"))
    return InputError(
        f"{path}: {what}, not LoRA",
        code="other-method",
        hint=LOHA_HINT if convertible else "only LoRA adapters can be read: train LoRA instead",
    )


_OF_OTHER_READERS = re.compile(r"\blora_(down|up)\b|\blora\.(.*\.)?(down|up)\b|\blora_[ab]$")
"""Tensors of formats that are read under other names of files: kohya, old diffusers, MLX-LM."""
DIFFUSERS_PARTS = ("to_q_lora", "to_k_lora", "to_v_lora", "to_out_lora", "lora_linear_layer")
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""Weights of a whole model."""


def refuse_foreign(
    path: Path, entries: Mapping[str, TensorEntry], metadata: Mapping[str, str], *, has_config: bool
) -> None:
    """Raise InputError if no tensor is a PEFT LoRA factor; the message names the file's actual content.

    Codes: other-method, not-peft-tensors, full-model, no-lora-tensors, empty-adapter.
    """
    if not entries:
        raise no_factors(path, entries)
    parts = {part for name in entries for part in name.split(".")}
    if "lora_E" in parts:  # beside lora_A and lora_B
        raise refuse_method(path, "contains weights of AdaLoRA")
    is_peft = bool(parts.intersection(("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")))
    diffusers = from_diffusers(entries, parts, metadata, has_config=has_config)
    if diffusers or (not is_peft and any(map(_OF_OTHER_READERS.search, entries))):
        raise InputError(
            f"{path}: tensors of kohya, diffusers or MLX-LM under the name of PEFT's weights",
            code="not-peft-tensors",
            hint=RENAME_HINT,
        )
    if is_peft:
        return
    for prefix, method in TENSORS.items():
        if any(part.startswith(prefix) for part in parts):
            raise refuse_method(path, f"contains weights of {method}")
    matrices = any(name.endswith(".weight") and len(entry.shape) >= 2 for name, entry in entries.items())
    if matrices and not has_config and not any("lora" in name for name in entries):
        raise InputError(
            f"{path}: no LoRA factors among its {len(entries)} tensors: a full model?",
            code="full-model",
            hint="point at the adapter's folder (adapter_config.json and adapter_model.safetensors)",
        )
    raise no_factors(path, entries)


def from_diffusers(
    names: Iterable[str], parts: set[str], metadata: Mapping[str, str], *, has_config: bool
) -> bool:
    """Return True for diffusers' keys, keys of its attention processors (`to_q_lora`), or its config in the
    header.
    """
    if "lora_adapter_metadata" in metadata or parts.intersection(DIFFUSERS_PARTS):
        return True
    if has_config:
        return False
    # GPT-2, Falcon and others also have `transformer.` at the top; only diffusers goes on like this.
    blocks = ("transformer_blocks", "single_transformer_blocks")
    return any(
        name.startswith(("unet.", "text_encoder.", "text_encoder_2."))
        or (name.startswith("transformer.") and name.split(".")[1] in blocks)
        for name in names
    )


def no_factors(path: Path, entries: Mapping[str, TensorEntry]) -> InputError:
    """Return the error for a file without a LoRA factor to measure."""
    if not entries:
        return InputError(
            f"{path}: the file contains no tensors",
            code="empty-adapter",
            hint="if it was saved under DeepSpeed ZeRO-3 or FSDP, gather the weights and save it again",
        )
    scalars = sum(entry.params <= 1 for entry in entries.values())
    numbers = f", {scalars} of them scalars" if scalars else ""
    return InputError(
        f"{path}: no LoRA factors among its {len(entries)} tensors{numbers} (the first is {min(entries)[:80]!r})",
        code="no-lora-tensors",
        hint="save it again with PEFT, or export it to PEFT's format with the tool that trained it: the format is "
        "unknown, or its LoRA weights were lost",
    )
