"""The base model of a run and its device: loaded from the settings, seeded before any random draw, identified.

All base models in Bench are loaded here, so training and evaluation get the same weights in the same
precision.
"""

import json
import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from gradience.digests import Sha256, sha256_file
from gradience.errors import InputError, UsageError, require
from gradience.models.locate import BESIDE, EVERYTHING, BaseSource, locate, require_weights
from gradience.models.settings import ModelSettings
from gradience.reading import MAX_SETTINGS_BYTES, check_regular, read_file

CONFIG = "config.json"
MOST = {"layers": 1000, "n_layer": 1000, "experts": 10_000, "num_labels": 100_000}
"""Largest integers in config fields whose names contain these words: transformers makes that many modules or names."""
FRESH = 2**26
"""Numbers that a model may have and its weights lack, such as the head of a classifier."""
PACKED_IN_A_BYTE = 8


@dataclass(frozen=True, slots=True)
class Base:
    """A loaded base model."""

    model: Any
    tokenizer: Any
    name: str
    """The name that an adapter records as its base."""
    fingerprint: str
    """The commit on the hub, or sha256 over the names and hashes of the folder's files."""
    parameters: int
    """Parameters of the base, including a new head; for quantized weights, the number before packing."""
    dtype: str
    device: str
    quantization: str | None
    untrained: frozenset[str] = frozenset()
    """Parameters that the checkpoint did not hold: a fresh head."""


def load_tokenizer(settings: ModelSettings) -> Any:
    """Return the tokenizer of the base, or of the adapter in the settings. The end token pads if there is no
    pad token.

    An adapter's tokenizer without a chat template gets the base's.
    """
    return _tokenizer(settings, locate(settings, BESIDE))


def _tokenizer(settings: ModelSettings, source: BaseSource) -> Any:
    from transformers import AutoTokenizer

    if settings.tokenizer is None:
        tokenizer = from_folder(AutoTokenizer, settings.name, source.folder)
    else:
        try:
            tokenizer = from_folder(AutoTokenizer, settings.tokenizer, Path(settings.tokenizer))
        except InputError as error:
            hint = "use the base's tokenizer: --tokenizer base"
            raise InputError(str(error), code=error.code, hint=hint) from None
        if not tokenizer.chat_template:
            with suppress(InputError):  # a base without a tokenizer
                base = from_folder(AutoTokenizer, settings.name, source.folder)
                tokenizer.chat_template = base.chat_template
    try:
        tokenizer("0 a", verbose=False)
    except BaseException as error:  # tokenizers raises `Exception`, and a BaseException if Rust panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _unreadable(
            Path(settings.tokenizer or source.folder), f"its tokenizer encodes no text: {_message_of(error)}"
        ) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"{settings.tokenizer or settings.name}: its tokenizer has neither a padding nor an end token",
                code="no-pad-token",
                hint="set pad_token in its tokenizer_config.json",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    settings: ModelSettings,
    *,
    labels: int | None = None,
    seed: int = 0,
    device: str = "auto",
    tokenizer: Any = None,
) -> Base:
    """Load the base: a sequence classifier with `labels` labels, or a language model when None.

    tokenizer: that of `load_tokenizer`, if it is loaded already. `seed` is set before the model is made, since a
    classifier's head is drawn then.
    Raises InputError or NetworkError when it cannot be had, MissingExtra without bitsandbytes for `nf4`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed

    target = choose_device(device)
    make_current(target)
    source = locate(settings)
    if tokenizer is None:
        tokenizer = _tokenizer(settings, source)
    arguments: dict[str, Any] = {"output_loading_info": True}
    arguments["ignore_mismatched_sizes"] = True  # they are refused below, by their names
    if settings.attn_implementation:
        arguments["attn_implementation"] = settings.attn_implementation
    if settings.quantization:
        arguments |= {"quantization_config": _four_bits(), "device_map": {"": target}}
    if labels is not None:
        arguments["num_labels"] = labels
    if source.commit is None:
        require_weights(source.folder, pickles=not settings.from_adapter)
    if source.commit or settings.from_adapter:
        arguments["use_safetensors"] = (
            True  # nothing that was downloaded, or that an adapter chose, is unpickled
        )
    set_seed(seed)
    factory: Any = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    shape = from_folder(AutoConfig, settings.name, source.folder)
    skeleton(factory, shape, labels=labels)
    by_weights = settings.dtype == "auto" and stored_dtype(shape) is None
    arguments["dtype"] = "auto" if by_weights else dtype_of(settings, shape, device)
    model, loaded = from_folder(factory, settings.name, source.folder, **arguments)
    if loaded["mismatched_keys"]:
        tensor, stored, wanted = sorted(loaded["mismatched_keys"])[0]
        raise _unreadable(
            source.folder, f"{tensor} has the shape {tuple(stored)}, and by config.json {tuple(wanted)}"
        )
    if labels is not None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if source.commit:
        # Records name the base by this: not by the folder of the hub's cache.
        model.config._name_or_path = source.name
    dtype = model.dtype
    if settings.quantization:
        # What is not packed (norms, embeddings, head) in float32, as QLoRA trains it: an adapter is evaluated on the
        # base that it was trained on, to the bit.
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # type: ignore[no-untyped-call]
    else:
        model.to(target)
    return Base(
        model=model,
        tokenizer=tokenizer,
        name=source.name,
        fingerprint=source.commit or _digest_of_folder(source.folder),
        parameters=int(model.num_parameters()),
        dtype=str(dtype).removeprefix("torch."),
        device=str(target),
        quantization=settings.quantization,
        untrained=frozenset(loaded["missing_keys"]),
    )


def fingerprint_of(settings: ModelSettings) -> str:
    """Return what `load_base` would say of the base (`Base.fingerprint`), without loading it.

    Asks the hub for the commit of a name on it. Raises InputError or NetworkError when the base cannot be had.
    """
    from transformers import AutoConfig

    source = locate(settings, ("config.json",))
    from_folder(AutoConfig, settings.name, source.folder)
    return source.commit or _digest_of_folder(source.folder)


def dtype_of(settings: ModelSettings, shape: Any, device: str = "auto") -> torch.dtype:
    """Return the precision of the frozen base.

    `auto` is the checkpoint's dtype (float32 if its config has none), and float32 on a CPU that is slow in
    that dtype. shape: transformers' config of the base. Raises UsageError (`no-device`).
    """
    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)  # type: ignore[no-any-return]
    stored = stored_dtype(shape) or torch.float32
    fast = settings.quantization is not None or computes_fast(stored, choose_device(device))
    return stored if fast else torch.float32


def stored_dtype(shape: Any) -> torch.dtype | None:
    """Return the dtype of the checkpoint from its config; None if the config has none."""
    dtype = getattr(shape, "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else None


def context_of(config: Any) -> int | None:
    """Return the context length of the text model in transformers' `config`; None if it has none, or no
    limit.

    >>> from transformers import LlamaConfig, XLNetConfig
    >>> context_of(LlamaConfig(max_position_embeddings=512)), context_of(XLNetConfig())
    (512, None)
    """
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if limit is not None and limit > 0 else None  # XLNet writes −1


def from_folder(factory: Any, name: str, folder: Path, **arguments: Any) -> Any:
    """Return what `factory.from_pretrained` makes of `folder`, which holds the model `name`, or of a config.json.

    Raises InputError (`model-unreadable`, and what `reading` raises).
    """
    from transformers import AutoConfig, AutoTokenizer

    _refuse_irregular(folder)
    fields = _config_fields(_config_in(folder))
    try:
        with quiet():
            return factory.from_pretrained(str(folder), trust_remote_code=False, **arguments)
    except Exception as error:
        # Files of a stranger: transformers and tokenizers raise anything, `Exception` itself included.
        if lacks_memory(error):
            raise
        part = "this model"
        if factory is AutoTokenizer:
            part = "its tokenizer (tokenizer.json and the files beside it)"
            if fields:  # the tokenizer's class reads the config as well
                from_folder(AutoConfig, name, folder)
        where = _config_in(folder) if factory is AutoConfig else folder
        raise _unreadable(where, f"transformers cannot load {part}: {_message_of(error)}") from error


def skeleton(factory: Any, shape: Any, *, labels: int | None = None, **arguments: Any) -> Any:
    """Return the model of transformers' config `shape` on torch's meta device: shapes without data.

    Raises InputError (`model-unreadable`) if `shape` describes no model, or one far larger than its weights.
    """
    folder = Path(shape._name_or_path)
    if labels is not None:
        shape.num_labels = labels
    try:
        with quiet(), torch.device("meta"):
            model = factory.from_config(shape, **arguments)
    except Exception as error:
        if lacks_memory(error):
            raise
        problem = f"transformers cannot load this model: {_message_of(error)}"
        raise _unreadable(_config_in(folder), problem) from error
    wanted = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    held = sum(path.stat().st_size for path in weights_in(folder)) if shape._name_or_path else 0
    packed = getattr(shape, "quantization_config", None) is not None
    if held and wanted > FRESH + held * (PACKED_IN_A_BYTE if packed else 1):
        raise _unreadable(
            folder / CONFIG, f"it describes {wanted:,} numbers, and the weights beside it have {held:,} bytes"
        )
    return model


def _config_fields(path: Path) -> dict[str, Any]:
    """Return the fields of a config.json, after refusing any that makes transformers loop or fetch code."""
    if not path.exists():
        return {}
    try:
        fields = json.loads(read_file(path, MAX_SETTINGS_BYTES))
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"it is not JSON: {_message_of(error)}") from None
    if not isinstance(fields, dict):
        raise _unreadable(path, "it is not a JSON object")
    _check_fields(path, fields)
    return fields


def _check_fields(path: Path, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        most = next((most for part, most in MOST.items() if part in key), None)
        if isinstance(value, int) and most is not None and value > most:
            raise _unreadable(path, f"{key} is {value:.3g}, and at most {most:,} are loaded")
        if "implementation" in key and "/" in json.dumps(value):
            raise _unreadable(path, f"{key} names code on the hub, which is not fetched")
        if isinstance(value, dict) and key.endswith("_config"):
            _check_fields(path, value)


def _config_in(folder: Path) -> Path:
    return folder if folder.suffix == ".json" else folder / CONFIG


def _message_of(error: BaseException) -> str:
    """Return the first lines of a library's message, as one."""
    if "weights_only" in str(error):  # it goes on with how to let the pickle run
        return "PyTorch refuses the pickle: it holds more than tensors"
    text = " ".join(" ".join(str(error).split("\n")[:3]).split())[:300]
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


def _unreadable(path: Path, problem: str) -> InputError:
    return InputError(
        f"{path}: {problem}",
        code="model-unreadable",
        hint="check for *.safetensors, the tokenizer's files, and a config.json of an architecture that this"
        " version of transformers knows",
    )


def _refuse_irregular(folder: Path) -> None:
    """Raise InputError if transformers would read a pipe, a device or an implausibly large file."""
    for pattern in EVERYTHING:
        for path in [folder] if folder.is_file() else folder.glob(pattern):
            if not path.is_dir():
                check_regular(path, limit=MAX_BESIDE_BYTES if pattern in BESIDE else None)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and its table of newly drawn weights: a head is meant to be new here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5 for a property by its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _four_bits() -> Any:
    """QLoRA (Dettmers et al. 2023): NF4, the block constants quantized too, products in bfloat16."""
    require("bitsandbytes", extra="qlora")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


MAX_BESIDE_BYTES = 256 * 2**20
"""Largest config or tokenizer file; Gemma's tokenizer.json has 33 MB."""
WEIGHTS = ("*.safetensors", "*.bin")
"""Files of a base's weights: the first pattern that fits, as transformers chooses."""


def weights_in(folder: Path) -> list[Path]:
    """Return the files of a base's weights."""
    return next((paths for pattern in WEIGHTS if (paths := sorted(folder.glob(pattern)))), [])


def _digest_of_folder(folder: Path) -> str:
    """sha256 over names and hashes of the files that decide what the base in `folder` does."""
    digest = Sha256()
    for path in sorted([*weights_in(folder), *(path for pattern in BESIDE for path in folder.glob(pattern))]):
        facts = path.stat()
        digest.update(f"{path.name} {_hash(path, facts.st_size, facts.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@cache
def _hash(path: Path, size: int, mtime_ns: int) -> str:
    """sha256 of a file, read once by this process as long as size and time stay: a base has many gigabytes."""
    return sha256_file(path)


# ---------------------------------------------------------------- devices
# One process, one device, in training and in evaluation alike. transformers would take every visible GPU of a process
# (`DataParallel`, which multiplies the batch) and put the model on the first one.


SAID_SO = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "not enough memory")
"""In the RuntimeErrors of the processor's allocator (torch 2.13: `DefaultCPUAllocator: can't allocate memory: you tried
to allocate … bytes`; on Windows `not enough memory`), of MPS, and of cuBLAS."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


def choose_device(device: str = "auto") -> torch.device:
    """Return the device of this process. `auto`: a GPU if there is one.

    Raises UsageError (`no-device`) for a device that this machine lacks.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        device = "cuda" if cuda else "mps" if mps else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise _absent(device) from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count() if cuda else 0, "mps": int(mps)}.get(chosen.type, 0)
    if (chosen.index or 0) >= count:
        raise _absent(device)
    return torch.device("cuda", chosen.index or 0) if chosen.type == "cuda" else chosen


def _absent(device: str) -> UsageError:
    hint = "use auto, cpu, cuda, cuda:0 or mps; `gradience env` says what torch sees"
    return UsageError(f"this machine has no device {device}", code="no-device", hint=hint)


def visible_name(device: torch.device) -> str:
    """Return a GPU as CUDA_VISIBLE_DEVICES names it; empty for another device."""
    if device.type != "cuda":
        return ""
    index, visible = device.index or 0, os.environ.get(VISIBLE)
    return visible.split(",")[index].strip() if visible else str(index)


def lacks_memory(error: BaseException) -> bool:
    """Return True if `error` says that memory could not be had."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID_SO)


def make_current(device: torch.device) -> None:
    """Let what asks torch for "the" GPU get this one: bitsandbytes, accelerate, the state of the random numbers."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def computes_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Return True if a device has instructions for products in `dtype`; processors without them convert every number.

    Measured on a processor (torch 2.13, 64 rows, one thread): products in bfloat16 take a quarter of the time of
    float32 with AVX512-BF16, 3.6 times as long without; in float16 3.5 times as long.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return True
    if dtype != torch.bfloat16:
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def threads(wanted: int | None) -> Iterator[None]:
    """Compute with `wanted` CPU threads inside the block: another number may give another adapter."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: torch.device) -> str:
    """The card's name; of a processor the instructions that the kernels are chosen by."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
