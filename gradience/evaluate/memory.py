"""Memory of a computation, from shapes that are counted on torch's meta device, and lengths that were read.

Every architecture that transformers knows is counted with its LoRA, and no weight is loaded.
"""

import copy
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradience.adapters.patterns import expressions_of, try_expressions
from gradience.errors import InputError
from gradience.evaluate.engines.transformers import scoring

# The engine of transformers, whichever engine runs: the tensors are those of its forward pass.
from gradience.evaluate.engines.transformers.forward import logits_at
from gradience.models.load import quiet, skeleton

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
    return logits_at(network, lambda hidden: hidden[:, -logits:].flatten(0, 1), input_ids=ids)


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
    base = skeleton(factory, config, labels=labels, dtype=dtype, attn_implementation="eager")
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
        with quiet(), torch.device("meta"):
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
    return 2 * logits * itemsize + MEASURED * 4 * min(logits, scoring.CHUNK)


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
