"""Checks of an evaluation on a local base before it is loaded: files, lengths, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from gradience.errors import InputError, OutputError, UsageError, require
from gradience.evaluate.engines.base import repeated
from gradience.evaluate.rows import texts_of
from gradience.files.shared_names import path_text
from gradience.models.devices import choose_device
from gradience.models.load import context_of, dtype_of, from_folder, skeleton, stored_dtype
from gradience.models.locate import locate, require_weights
from gradience.models.rendering import encode_pair, token_counts
from gradience.models.tokenizers import check_vocabulary, tokenizer_notes
from gradience.tasks.base import ChoiceTask, ClassificationTask, GenerationTask, LikelihoodTask, Task
from gradience.words import noun

if TYPE_CHECKING:
    from gradience.evaluate.adapters import AdapterInput
    from gradience.evaluate.inputs import EvaluateInputs

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
SPECIAL = 16
"""Tokens that a tokenizer adds at most, the end token among them."""
PACKED_SHARE = 0.3
"""Size of NF4 weights relative to bfloat16, not counting the embeddings and head in float32."""


def base_notes(inputs: EvaluateInputs) -> Iterator[str]:
    """Yield notes to show before the run; only config.json and the tokenizer are read.

    Raises the errors of `lengths` and `memory`, MissingExtra, and InputError or NetworkError if the base is
    not available.
    """
    model, adapters, device = inputs.model, inputs.adapters, inputs.request.device
    require("transformers", extra="hf")
    if model.quantization is not None:
        require("bitsandbytes", extra="qlora")
    source = locate(model, ("config.json",))
    if source.commit is None:
        require_weights(source.folder, pickles=not model.from_adapter)
    shape = from_folder(AutoConfig, model.name, source.folder)
    check_vocabulary(model, inputs.tokenizer, shape, {adapter.given: adapter.tokens for adapter in adapters})
    labels = len(inputs.task.label_names) if isinstance(inputs.task, ClassificationTask) else None
    check_modules(model.name, shape, labels, adapters)
    yield from tokenizer_notes(
        model, inputs.tokenizer, {adapter.name: adapter.folder for adapter in adapters}
    )
    yield from repeated(inputs)
    yield from lengths(
        inputs.task,
        inputs.examples,
        inputs.tokenizer,
        shape=shape,
        max_length=inputs.max_length,
        max_new_tokens=inputs.request.max_new_tokens,
    )
    dtype, stored = dtype_of(model, shape, device), stored_dtype(shape)
    if model.dtype == "auto" and stored not in (None, dtype):
        yield (
            f"the base is computed in float32, which is faster on this processor than its own {str(stored)[6:]}:"
            f" --dtype {str(stored)[6:]} takes half of the memory"
        )
    size = sum(path.stat().st_size for path in source.folder.glob("*.safetensors"))
    itemsize = (stored or torch.float32).itemsize
    weights = size * dtype.itemsize // itemsize
    if model.quantization is not None:
        weights = int(PACKED_SHARE * size * 2 / itemsize)
    if weights:  # else they are not here yet
        yield from memory(weights + inputs.adapter_bytes, weights, *memory_of(device))


def check_modules(base: str, shape: Any, labels: int | None, adapters: Sequence[AdapterInput]) -> None:
    """Compare the modules of adapters with those of the base, which is built from its config on the meta device.

    Only the last part of a name is compared: prefixes differ between versions of transformers, which also fuse experts.
    Vocabularies may be resized. Raises InputError (`adapter-misfit`) for an adapter of another architecture or size.
    """
    factory: Any = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    network = skeleton(factory, shape, labels=labels)
    modules = dict(network.named_modules())
    known = {name.rpartition(".")[2] for name, _ in (*modules.items(), *network.named_parameters())}
    resized = (network.get_input_embeddings(), network.get_output_embeddings())
    for adapter in adapters:
        names = [name for name in adapter.sizes if "experts" not in name]
        endings = {name.rpartition(".")[2] for name in names}
        why = (
            ""
            if not names or endings & known
            else f"the base has no modules named {', '.join(sorted(endings)[:4])}"
        )
        for name in names:
            weight = getattr(modules.get(name), "weight", None)
            if modules.get(name) in resized or not isinstance(weight, torch.Tensor) or weight.ndim != 2:
                continue
            here, there = tuple(weight.shape), adapter.sizes[name]
            if not why and sorted(here) != sorted(there):
                why = f"{name} is {here[0]:,} x {here[1]:,} there, and {there[0]:,} x {there[1]:,} in the adapter"
        if why:
            raise InputError(
                f"{adapter.given} does not fit {path_text(base)}: {why}",
                code="adapter-misfit",
                hint="use the base that it was trained on"
                + (f": {path_text(adapter.base_model)}" if adapter.base_model else ""),
            )


def lengths(
    task: Task,
    examples: Sequence[Any],
    tokenizer: Any,
    *,
    shape: Any,
    max_length: int,
    max_new_tokens: int | None,
) -> Iterator[str]:
    """Yield notes on examples that are too long for the base.

    shape: transformers' config of the base. max_length: tokens of a text to label that are read.
    Raises UsageError (`no-room`, `max-length`) and InputError (`response-too-long`): with these nothing could be run.
    """
    context = context_of(shape)
    if isinstance(task, ClassificationTask):
        yield from _texts(examples, tokenizer, context, max_length)
        return
    if context is None or (isinstance(task, LikelihoodTask) and task.rolling):
        return
    room = context
    if isinstance(task, GenerationTask):
        new = max_new_tokens or task.max_new_tokens
        room = context - new
        if room < 1:
            raise UsageError(
                f"{new:,} new tokens leave no room for a prompt: the base is limited to {context:,}",
                code="no-room",
                hint="lower max_new_tokens",
            )
    longest, too_long = 0, 0
    for number, example in enumerate(examples):
        responses = example.responses if isinstance(task, ChoiceTask) else (example.response,)
        if number and all(is_short(example.prompt + response, room) for response in responses):
            continue
        wanted = 0
        for response in responses:
            before, after = encode_pair(tokenizer, example.prompt, response)
            if len(after) >= context:
                raise InputError(
                    f"{example.id}: its response has {len(after):,} tokens; the base is limited to {context:,} in all",
                    code="response-too-long",
                    hint="remove this row, or shorten it",
                )
            wanted = len(before) + (0 if isinstance(task, GenerationTask) else len(after))
            longest = max(longest, wanted)
        too_long += wanted > room
    if too_long:
        less = f" less {context - room:,} for the answer" if room < context else ""
        yield (
            f"{_of(too_long, examples, 'prompt')} more than {room:,} tokens (the longest has {longest:,}) and"
            f" {'loses its' if too_long == 1 else 'lose their'} beginning: the base's limit is {context:,}{less}"
        )


def _texts(examples: Sequence[Any], tokenizer: Any, context: int | None, max_length: int) -> Iterator[str]:
    texts = [texts_of(example) for example in examples]
    most = min(max_length, context or max_length)
    counts = token_counts(tokenizer, [text for text in texts if not is_short(" ".join(text), most)]) or [0]
    if context is not None and max_length > context and max(counts) > context:
        raise UsageError(
            f"a text has {max(counts):,} tokens, but the base's limit is {context:,} (max_length is {max_length:,})",
            code="max-length",
            hint=f"set max_length to {context} or less",
        )
    if too_long := sum(count > max_length for count in counts):
        yield (
            f"{_of(too_long, examples, 'text')} more than {max_length:,} tokens (the longest has {max(counts):,}) and"
            f" {'is' if too_long == 1 else 'are'} truncated: raise max_length to read more, up to the base's limit"
        )


def is_short(text: str, tokens: int) -> bool:
    """Return True if a text certainly has at most `tokens` tokens: in ASCII a token has at least one character."""
    return len(text) + SPECIAL <= tokens and text.isascii()


def _of(number: int, examples: Sequence[Any], what: str) -> str:
    return f"{number:,} of {len(examples):,} {noun(len(examples), what)} {'has' if number == 1 else 'have'}"


# ---------------------------------------------------------------- memory


def memory_of(device: str) -> tuple[int, int]:
    """Return the free and total bytes of a device. For a CPU: of the machine, or of the container if its
    limit is smaller. Raises UsageError (`no-device`).
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        free, whole = torch.cuda.mem_get_info(chosen)
        return int(free), int(whole)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = whole
    if MEMINFO.is_file():
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        free = next((1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), whole)
    limit = CGROUP.read_text().strip() if CGROUP.is_file() else ""
    if limit.isdecimal():
        free, whole = min(free, int(limit)), min(whole, int(limit))
    return free, whole


def memory(needed: int, weights: int, free: int, whole: int) -> Iterator[str]:
    """Yield a warning if an evaluation may not fit. Raises OutputError (`out-of-memory`) if it cannot.

    needed: total bytes; weights: bytes of the base only.
    """
    smaller = "--dtype bfloat16, --quantization nf4, or another --device"
    if weights > whole:
        raise OutputError(
            f"the base model takes about {weights / 1e9:.1f} GB, but the device has {whole / 1e9:.1f} GB",
            code="out-of-memory",
            hint=smaller,
        )
    if needed > free:
        yield (
            f"about {needed / 1e9:.1f} GB of memory are needed, and {free / 1e9:.1f} GB are free: try a smaller"
            f" --batch-size, {smaller}"
        )
