"""Memory of a computation, counted on torch's meta device, which has shapes and no numbers.

Every architecture that transformers knows is counted with its LoRA, and no weight is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradience.adapters.patterns import expressions_of, try_expressions
from gradience.errors import InputError

# The engine of transformers, whichever engine runs: the tensors are those of its forward pass.
from gradience.evaluate.engines.transformers.forward import logits_at
from gradience.models.load import quiet, skeleton

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
        if name == VALUE and args[0].is_meta:  # a mask asks if all of it is set; without padding it is
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
    """One forward of a batch, with logits of the last `logits` tokens (None: of all that the model makes).

    They are made as the engine makes them: of contiguous rows, for which the head's weights are read where they lie.
    """
    network.eval()
    ids = torch.zeros(rows, length, dtype=torch.long, device=network.device)
    if logits is None:
        return network(input_ids=ids)
    return logits_at(network, lambda hidden: hidden[:, -logits:].flatten(0, 1), input_ids=ids)


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
        config.pad_token_id = 0
    base = skeleton(factory, config, labels=labels, dtype=dtype, attn_implementation="eager")
    names = [name for kind in (base.named_modules(), base.named_parameters()) for name, _ in kind]
    if (tried := try_expressions(expressions_of(lora), names)) is not None:
        raise InputError(
            f"lora: comparing {tried[0]} with the names of modules fails: {tried[1]}",
            code="lora-misfit",
            hint=f"list the names of modules in {tried[0]}",
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
            hint="set lora.target_modules to modules that this architecture has",
        ) from None


def _tensors(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
