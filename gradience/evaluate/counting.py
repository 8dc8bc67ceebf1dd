"""What a model computes, counted and not estimated: it is run on torch's meta device, which has shapes and no numbers.

So every architecture that transformers knows is counted, with its LoRA, without a weight of it being loaded.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gradience.errors import InputError

# Of this engine and not of whichever is chosen: what is counted are torch's kernels, in a forward of transformers.
from gradience.evaluate.engines.transformers.forward import logits_at, next_logits

NO_KERNEL = ("aten::detach", "aten::_unsafe_view", "aten::lift_fresh", "aten::empty")
VALUE = "aten::_local_scalar_dense"
GATHERS = ("aten::embedding", "aten::index_select", "aten::gather")
"""They read as much as they write, not the whole table."""
Kernel = tuple[int, int, torch.dtype]
"""Operations in products of matrices, bytes read and written, and the dtype."""


@dataclass(frozen=True, slots=True)
class Work:
    """Kernels of a computation, and the bytes that it keeps for its gradients."""

    kernels: Mapping[Kernel, int]
    saved: int = 0

    @property
    def count(self) -> int:
        """How many kernels."""
        return sum(self.kernels.values())

    @property
    def flops(self) -> int:
        """Operations in products of matrices, all together."""
        return sum(flops * count for (flops, _, _), count in self.kernels.items())


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: Counter[Kernel] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == VALUE and args[0].is_meta:  # of a mask: is all of it set? It is: nothing is padded here
            return True
        out = func(*args, **(kwargs or {}))
        if func.is_view or name.startswith(NO_KERNEL):
            return out
        rule = flop_registry.get(func.overloadpacket)
        flops = int(rule(*args, **(kwargs or {}), out_val=out)) if rule else 0
        written, read = _tensors(out), _tensors(args)
        size = sum(tensor.nbytes for tensor in written)
        size += size if name in GATHERS else sum(tensor.nbytes for tensor in read)
        kinds = [tensor.dtype for tensor in (*read, *written) if tensor.is_floating_point()]
        self.kernels[flops, size, kinds[0] if kinds else torch.int64] += 1
        return out


def work_of(call: Callable[[], Any]) -> Work:
    """Return the kernels of `call`, without gradients."""
    with torch.no_grad(), _Counting() as counting:
        call()
    return Work(counting.kernels)


def training_work(network: Any, rows: int, length: int, *, labels: bool) -> Work:
    """Forward and backward of one batch (rows, length); `labels`: the loss is on a label, not on tokens."""
    saved: dict[int, torch.Tensor] = {}
    weights = {weight.untyped_storage()._cdata for weight in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # held: a freed storage would give its address away
        return tensor

    network.train()
    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    target = torch.zeros(rows, dtype=torch.long, device="meta") if labels else ids
    with _Counting() as counting:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = network(input_ids=ids, attention_mask=torch.ones_like(ids), labels=target).loss
        loss.backward()
    network.zero_grad()
    held = sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in weights)
    return Work(counting.kernels, held)


def forward_of(network: Any, *, rows: int, length: int, logits: int | None = None) -> Any:
    """One forward of a batch, with logits of the last `logits` tokens (None: of all that the model makes).

    They are made as the engine makes them: of contiguous rows, for which the head's weights are read where they lie.
    """
    network.eval()
    ids = torch.zeros(rows, length, dtype=torch.long, device=network.device)
    if logits is None:
        return network(input_ids=ids)
    return logits_at(network, lambda hidden: hidden[:, -logits:].flatten(0, 1), input_ids=ids)


def decoding_work(network: Any, rows: int, *, cached: int = 16) -> Work:
    """One token for each of so many rows, behind `cached` tokens."""
    network.eval()
    ids = torch.zeros(rows, cached, dtype=torch.long, device="meta")
    mask = torch.ones(rows, cached + 1, dtype=torch.long, device="meta")
    with torch.no_grad():
        _, cache = next_logits(network, ids, mask[:, :-1])
    return work_of(lambda: next_logits(network, ids[:, :1], mask, cache))


def network_on_meta(
    config: Any, lora: Mapping[str, Any], *, dtype: torch.dtype, labels: int | None
) -> tuple[Any, Any]:
    """The base of this transformers config, and the same with LoRA: causal, or with `labels` a classifier.

    Raises InputError (`lora-misfit`) where PEFT refuses such an adapter on such a base.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    # The mask that SDPA takes depends on values, and there are none here.
    factory: Any = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    if labels is not None:
        config.num_labels = labels
        config.pad_token_id = 0
    with torch.device("meta"):
        base = factory.from_config(config, dtype=dtype, attn_implementation="eager")
    task_type = "CAUSAL_LM" if labels is None else "SEQ_CLS"
    try:
        # A copy: PEFT extends the list `modules_to_save` that it is given.
        return base, get_peft_model(base, LoraConfig(task_type=task_type, **copy.deepcopy(dict(lora))))
    except (
        ValueError,
        TypeError,
    ) as error:  # no such modules; a module that is trained whole and has LoRA as well
        raise InputError(
            f"lora: PEFT refuses it on this {config.model_type}: {str(error).splitlines()[0]}",
            code="lora-misfit",
            hint="set lora.target_modules to modules that this architecture has",
        ) from None


def tiny_with_lora(device: str) -> Any:
    """A Llama of two layers and 32 columns with LoRA on every linear layer: all launching, no computing."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    with torch.device(device):
        base = LlamaForCausalLM(config)
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))


def _tensors(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
