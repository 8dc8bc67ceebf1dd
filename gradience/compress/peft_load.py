"""The process in which PEFT loads a written adapter: a request as JSON on stdin, the answer as the last line of stdout.

Run by `peft_check` as `python -m gradience.compress.peft_load`. Nothing else of the package imports it: it needs torch
and PEFT.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn

from gradience.adapters.config import without_imports

_CONVOLUTIONS: Mapping[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
ADAPTER = "default"


class Skeleton(nn.Module):
    """A model without a forward pass and without memory: modules at the right paths and shapes."""

    def prepare_inputs_for_generation(self) -> None:
        """Looked up by PEFT when it wraps a model for generation."""

    def _prepare_encoder_decoder_kwargs_for_generation(self) -> None:
        """Looked up by PEFT when it wraps an encoder-decoder."""


def build(
    layers: Sequence[Mapping[str, Any]], loose: Mapping[str, Sequence[int]], saved: Sequence[str]
) -> Skeleton:
    """The skeleton of the request. A saved module with one matrix is a Linear, so that `all-linear` could hit it."""
    root = Skeleton()
    with torch.device("meta"):
        for layer in sorted(layers, key=lambda layer: layer["name"].count(".")):
            name, shape = layer["name"], layer["shape"]
            if layer["kind"] == "parameter":
                owner, _, parameter = name.rpartition(".")
                _at(root, owner).register_parameter(parameter, nn.Parameter(torch.empty(shape)))
            else:
                _put(root, name, _module(layer["kind"], shape, layer))
        for name in saved:
            tensors = {path: size for path, size in loose.items() if path.rpartition(".")[0] == name}
            weight = tensors.get(f"{name}.weight", ())
            if len(weight) == 2 and tensors.keys() <= {f"{name}.weight", f"{name}.bias"}:
                _put(root, name, nn.Linear(weight[1], weight[0], bias=f"{name}.bias" in tensors))
        for path, size in loose.items():
            owner, _, parameter = path.rpartition(".")
            module = _at(root, owner)
            if getattr(module, parameter, None) is None:
                module.register_parameter(parameter, nn.Parameter(torch.empty(list(size))))
    _weightless(root)
    return root


def _weightless(root: nn.Module) -> None:
    """Every parameter on the CPU, one number wide: on the meta device PEFT would move its adapter there as well."""
    for module in root.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            shape = parameter.shape
            setattr(module, name, nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False))


def _module(kind: str, shape: Sequence[int], layer: Mapping[str, Any]) -> nn.Module:
    if kind == "embedding":
        return nn.Embedding(shape[1], shape[0])
    if kind == "attention":
        return nn.MultiheadAttention(shape[0], 1)
    if kind == "conv":
        rows, inputs, *kernel = shape
        convolution = _CONVOLUTIONS[len(kernel) + 2]
        return convolution(inputs, rows, tuple(kernel), groups=layer["groups"], bias=layer["bias"])
    return nn.Linear(shape[1], shape[0], bias=layer["bias"])


def _at(root: nn.Module, name: str) -> nn.Module:
    """Return the module at `name`; create it if there is none."""
    module = root
    for part in filter(None, name.split(".")):
        child = module._modules.get(part)
        if child is None:
            child = nn.Module()
            module.add_module(part, child)
        module = child
    return module


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    parent = _at(root, owner)
    if last not in parent._modules:
        parent.add_module(last, module)


# ---------------------------------------------------------------- loading and looking


def check(request: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, counts, and what is wrong."""
    folder = Path(request["folder"])
    reply: dict[str, Any] = {name: version(name) for name in ("peft", "torch", "transformers")}
    reply |= {"modules": 0, "tensors": 0, "problems": []}
    config = without_imports(LoraConfig.from_pretrained(str(folder)))
    config.layer_replication = None  # the skeleton has the replicated layers already
    base = build(request["layers"], request["loose"], request["saved"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = PeftModel.from_pretrained(
                base,
                folder,
                config=config,
                low_cpu_mem_usage=True,
                autocast_adapter_dtype=False,
                torch_device="cpu",
            )
        except Exception as error:  # noqa: BLE001 (whatever PEFT raises is the finding)
            return reply | {"problems": [f"{type(error).__name__}: {str(error)[:300]}"]}
    problems = [
        str(warning.message)[:300] for warning in caught if "missing adapter keys" in str(warning.message)
    ]
    layers = lora_layers(model)
    tensors = load_file(folder / "adapter_model.safetensors")
    problems += [*_module_problems(layers, request["expected"]), *_tensor_problems(model, tensors)]
    return reply | {"modules": len(layers), "tensors": len(tensors), "problems": problems}


def lora_layers(model: PeftModel) -> dict[str, LoraLayer]:
    """Module, or parameter, -> PEFT's layer."""
    layers: dict[str, LoraLayer] = {}
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and ADAPTER in layer.scaling:
            parameter = getattr(layer, "parameter_name", None)
            layers[f"{name.replace('.base_layer', '')}.{parameter}" if parameter else name] = layer
    return layers


def _module_problems(
    layers: Mapping[str, LoraLayer], expected: Mapping[str, Sequence[float]]
) -> Iterator[str]:
    for name in sorted(layers.keys() - expected.keys()):
        yield f"it creates LoRA for {name}, which was left out"
    for name in sorted(expected.keys() - layers.keys()):
        yield f"it creates no LoRA for {name}"
    for name in sorted(layers.keys() & expected.keys()):
        rank, scale = expected[name]
        if layers[name].r[ADAPTER] != rank:
            yield f"{name} gets the rank {layers[name].r[ADAPTER]}, not {rank}"
        if not math.isclose(layers[name].scaling[ADAPTER], scale, rel_tol=1e-9):
            yield f"{name} gets the scale {layers[name].scaling[ADAPTER]}, not {scale}"


def _tensor_problems(model: PeftModel, tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Yield a problem for each tensor of the file that is missing in the model, as PEFT saves it, or differs."""
    state = model.state_dict()
    state |= get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    for name, stored in tensors.items():
        loaded = state.get(name)
        if loaded is None:
            yield f"it ignores {name}"
        elif loaded.is_meta or loaded.shape != stored.shape:
            yield f"it does not load {name}"
        elif not torch.equal(_bits(loaded.to(stored.dtype)), _bits(stored)):
            yield f"{name} has other values once loaded"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


if __name__ == "__main__":
    print(json.dumps(check(json.load(sys.stdin))))  # noqa: T201 (the answer)
