"""Checks of an evaluation on a local base before it is loaded: files, lengths, memory."""

from __future__ import annotations

import copy
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from gradience.adapters.config import expressions_of, try_expressions
from gradience.errors import InputError, OutputError, UsageError, require
from gradience.evaluate.engines.base import repeated
from gradience.evaluate.engines.transformers import forward
from gradience.evaluate.rows import texts_of
from gradience.files.shared_names import path_text
from gradience.models import load
from gradience.models.locate import locate, require_weights
from gradience.models.tokenizers import check_vocabulary, encode_pair, token_counts, tokenizer_notes
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
    shape = load.from_folder(AutoConfig, model.name, source.folder)
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
    dtype, stored = load.dtype_of(model, shape, device), load.stored_dtype(shape)
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
    network = load.skeleton(factory, shape, labels=labels)
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
    context = load.context_of(shape)
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
    chosen = load.choose_device(device)
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


# ---------------------------------------------------------------- shapes
#
# The shapes are counted on torch's meta device: for every architecture that transformers knows, with its LoRA, and
# without loading a weight.


PACKED_BITS = 4.127
"""Bits per NF4 weight, including its block constants (QLoRA)."""
MEASURED = 5
"""Float32 numbers per logit for KL: both log-probabilities, a probability, the difference of
the logs, and the product of the last two."""
NO_KERNEL = ("aten::detach", "aten::_unsafe_view", "aten::lift_fresh", "aten::empty")
VALUE = "aten::_local_scalar_dense"
GATHERS = ("aten::embedding", "aten::index_select", "aten::gather")
"""They read as much as they write, not the whole table."""


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == VALUE and args[0].is_meta:  # a mask asks whether all of it is set; without padding it is
            return True
        out = func(*args, **(kwargs or {}))
        if not func.is_view and not name.startswith(NO_KERNEL):
            written = sum(tensor.nbytes for tensor in _tensors(out))
            read = written if name in GATHERS else sum(tensor.nbytes for tensor in _tensors(args))
            self.size = max(self.size, written + read)
        return out


def largest_step(call: Callable[[], Any]) -> int:
    """Return the bytes that the largest kernel of `call` reads and writes, without gradients."""
    with torch.no_grad(), _Largest() as largest:
        call()
    return int(largest.size)


def activation_bytes(network: Any, rows: int, length: int, *, labels: bool) -> int:
    """Return the bytes that a batch (rows, length) keeps for its gradients.

    labels: the loss is on a label of each row, not on its tokens.
    """
    saved: dict[int, torch.Tensor] = {}
    weights = {weight.untyped_storage()._cdata for weight in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # held: a freed storage would give its address away
        return tensor

    network.train()
    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    target = torch.zeros(rows, dtype=torch.long, device="meta") if labels else ids
    with _Largest(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(input_ids=ids, attention_mask=torch.ones_like(ids), labels=target)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in weights)


def forward_of(network: Any, *, rows: int, length: int, logits: int | None = None) -> Any:
    """Run one forward pass of a batch, with logits of the last `logits` tokens (None: all the model
    computes).

    As in the engine, logits come from contiguous rows, so that the head's weights are not copied.
    """
    network.eval()
    ids = torch.zeros(rows, length, dtype=torch.long, device=network.device)
    if logits is None:
        return network(input_ids=ids)
    return forward.logits_at(network, lambda hidden: hidden[:, -logits:].flatten(0, 1), input_ids=ids)


def network_on_meta(
    config: Any, lora: Mapping[str, Any], *, dtype: torch.dtype, labels: int | None
) -> tuple[Any, Any]:
    """Return the base of this transformers config, and the same with LoRA: causal, or with `labels` a
    classifier.

    Raises InputError (`lora-misfit`) if PEFT refuses such an adapter on such a base.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    # The mask that SDPA takes depends on values, and there are none here.
    factory: Any = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    if labels is not None:
        config.pad_token_id = 0
    base = load.skeleton(factory, config, labels=labels, dtype=dtype, attn_implementation="eager")
    names = [name for kind in (base.named_modules(), base.named_parameters()) for name, _ in kind]
    if (tried := try_expressions(expressions_of(lora), names)) is not None:
        raise InputError(
            f"lora: matching {tried[0]} against the module names fails: {tried[1]}",
            code="lora-misfit",
            hint=f"list the module names in {tried[0]}",
        )
    task_type = "CAUSAL_LM" if labels is None else "SEQ_CLS"
    try:
        # A copy: PEFT extends the list `modules_to_save` that it is given.
        settings = LoraConfig(task_type=task_type, **copy.deepcopy(dict(lora)))
        with load.quiet(), torch.device("meta"):
            return base, get_peft_model(base, settings)
    except (
        ValueError,
        TypeError,
    ) as error:  # no such modules; a module that is trained whole and has LoRA as well
        raise InputError(
            f"lora: PEFT refuses it on this {config.model_type}: {str(error).splitlines()[0]}",
            code="lora-misfit",
            hint="set lora.target_modules to modules of this architecture",
        ) from None


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


# ---------------------------------------------------------------- sums


def longest_of(lengths: Sequence[int], batch: int) -> float:
    """The expected longest of `batch` lengths that are drawn at random: how long a padded row of training is.

    >>> longest_of([10, 20], 1), longest_of([10, 20], 2)
    (15.0, 17.5)
    """
    n, before, expected = len(lengths), 0.0, 0.0
    for place, length in enumerate(sorted(lengths), start=1):
        below = (place / n) ** batch  # the chance that no drawn length is further right than this
        expected += length * (below - before)
        before = below
    return expected


def sorted_longest(lengths: Sequence[int], batch: int) -> float:
    """The mean longest of batches that are sorted by length, as an evaluation makes them.

    >>> sorted_longest([3, 9, 4, 10], 2)
    7.0
    """
    longest = sorted(lengths)[batch - 1 :: batch] or [max(lengths)]
    return sum(longest) / len(longest)


def answering_bytes(
    shape: Any, network: Any, *, rows: int, prompt: int, new: int, scored: int, itemsize: int
) -> int:
    """Return the bytes needed besides the base: for an answered batch, or for responses scored together.

    rows, prompt: shape of the batch. new: tokens that it generates; 0 for labels. scored: positions scored together,
    each with the logits of a whole vocabulary.
    """
    text, length = shape.get_text_config(), max(1, prompt)
    answering = largest_step(lambda: forward_of(network, rows=rows, length=length, logits=1 if new else None))
    if new:
        heads = getattr(text, "num_attention_heads", 0) or 1
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        groups = getattr(text, "num_key_value_heads", None) or heads
        answering += 2 * rows * (prompt + new) * text.num_hidden_layers * groups * width * itemsize
    return max(answering, scoring_bytes(scored * text.vocab_size, itemsize) if scored else 0)


def scoring_bytes(logits: int, itemsize: int) -> int:
    """Return bytes of `logits` logits of an adapter and of the reference, and of float32 values computed from some."""
    return 2 * logits * itemsize + MEASURED * 4 * min(logits, forward.CHUNK)


def weights_bytes_of(base: Any, *, packed: bool) -> int:
    """Bytes of the base's weights; packed: the linear layers in NF4, everything else and the head in float32."""
    weights = {name: weight for name, weight in base.named_parameters() if "lora_" not in name}
    if not packed:
        return sum(weight.nbytes for weight in weights.values())
    linear = {
        id(module.weight)
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    }
    head = base.get_output_embeddings()
    linear -= {id(head.weight)} if head is not None else set()
    bits = sum(weight.numel() * (PACKED_BITS if id(weight) in linear else 32) for weight in weights.values())
    return int(bits / 8)


def process_bytes(device: str) -> int:
    """Return the peak memory of this process: Python and the libraries, before a base is loaded; 0 for a GPU."""
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if device != "cpu" and (device != "auto" or gpu):
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
