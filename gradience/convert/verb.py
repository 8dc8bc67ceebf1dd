"""`convert_adapter`: what `gradience convert` does, and the formats: tensor names, axis order, settings and writer."""

import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gradience.adapters import adapter as adapters
from gradience.adapters.base import base_folder, model_config_of
from gradience.adapters.diffusers import ALPHA_REASON, METADATA, NAME, configs_of, part_of, part_of_all
from gradience.adapters.formats import open_adapter, require_order, words_of
from gradience.adapters.gguf import ARCHITECTURES, heads_of, llama_cpp_name
from gradience.adapters.keys import Side, factor_name, is_split_expert, layer_of, peft_name
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.mlx import FINAL, read_settings
from gradience.adapters.peft import fields_in_peft_order
from gradience.adapters.tensors import DTYPES, NewTensor, Words, write_tensors
from gradience.compress import layout
from gradience.compress.carry import carry_files, names_beside, refuse_foreign_files
from gradience.convert.settings import ConvertSettings
from gradience.digests import sha256_file
from gradience.errors import InputError, UsageError, VerificationError, did_you_mean, is_integer, require
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output, whole_folder
from gradience.reports.audit import TensorNote
from gradience.reports.base.report import Stopwatch, hub_source
from gradience.reports.conversion import ConversionReport
from gradience.settings import public


class Written(NamedTuple):
    """The weights as written.

    sha256, bytes: of the file of weights.   tensors: in it.   renamed: number of tensors with a new name.
    left_out: tensors of the source that the target does not hold, with reasons.
    modules: each module -> its name in the written file, if that differs.
    """

    sha256: str
    bytes: int
    tensors: int
    renamed: int
    left_out: tuple[adapters.SkippedTensor, ...] = ()
    modules: Mapping[str, str] = MappingProxyType({})


class Form(ABC):
    """Writer of one adapter in one format. base: folder of the base model, for a format that depends on it.

    words: name in messages.   weights: name of the weights file.   dtypes: storage types that the format's library
    reads.
    """

    words: ClassVar[str]
    weights: ClassVar[str]
    dtypes: ClassVar[frozenset[str]] = frozenset(("F32", "F16", "BF16"))

    def __init__(self, opened: adapters.Adapter, base: Path | None) -> None:
        self.opened, self.base = opened, base

    @abstractmethod
    def module(self, pair: adapters.LoraPair) -> str:
        """Return what the format calls a module of the adapter. Raises InputError (not-in-format)."""

    @abstractmethod
    def factor(self, pair: adapters.LoraPair, side: Side) -> str:
        """Return the name of a module's factor."""

    @cached_property
    def targets(self) -> Sequence[layout.Target]:
        """Rank and scale of each module. Raises InputError for an unknown scale."""
        pairs = self.opened.pairs
        return [layout.Target(self.module(pair), pair.rank, self.opened.scale_of(pair)) for pair in pairs]

    @abstractmethod
    def settings(self) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
        """Return adapter_config.json, if the format has one, and the settings in the header of the weights.

        Raises InputError (not-in-format).
        """

    def turn(self, words: Words, side: Side, pair: adapters.LoraPair) -> Words:
        """Return a view, in the format's order of axes, of words in PEFT's order."""
        return words

    def write(
        self, path: Path, tensors: Mapping[str, NewTensor], settings: Mapping[str, Any]
    ) -> tuple[str, int]:
        """Write the file of weights; return its SHA-256 and its size."""
        return write_tensors(path, tensors, settings)

    def not_held(self, part: str, hint: str) -> InputError:
        """Return the error for a part of the adapter that the format cannot hold."""
        return layout.not_held(self.opened, self.words, part, hint)

    def rewriting(self, options: str) -> str:
        """Return the command that writes the adapter again at its own ranks, with other options of compress."""
        rank = max((pair.rank for pair in self.opened.pairs), default=1)
        return f"gradience compress {self.opened.location.path} --rank {rank} {options} --output smaller"

    def left_out(self) -> tuple[adapters.SkippedTensor, ...]:
        """Return the tensors that are copies, or of another adapter in the file: they are left out.

        Raises InputError (not-in-format) for a tensor beside the factors that belongs to this adapter, for which the
        format has no place, and what `refuse_meaning` raises.
        """
        left_out = []
        for note in (*self.opened.unaudited, *self.opened.other):
            if note.reason == adapters.BASE_REASON or self.opened.is_foreign(note):
                left_out.append(note)
            elif note.reason != ALPHA_REASON:  # which is in the settings of what is written
                problem = f"it cannot store {note.tensor[:120]} ({note.reason})"
                raise self.not_held(problem, "the PEFT format can store it")
        layout.refuse_meaning(self.opened, self.words)
        return tuple(left_out)

    def tensors(self) -> Iterator[tuple[str, adapters.Factor]]:
        """Yield each tensor that is written, with its name. Raises InputError (not-in-format)."""
        for pair in self.opened.pairs:
            for side, factor in pair.factors.items():
                if factor.entry.dtype.name not in self.dtypes:
                    stored, known = factor.entry.dtype.name, ", ".join(sorted(self.dtypes))
                    raise self.not_held(
                        f"{pair.module} is stored as {stored}, but {self.words} has only {known}",
                        f"change the type first: {self.rewriting('--dtype F32')}",
                    )
                yield self.factor(pair, side), factor.through(partial(self.turn, side=side, pair=pair))

    def written_in(self, folder: Path) -> Written:
        """Write the weights, and the config if the format has one.

        Raises InputError: not-in-format, same-tensor, no-config, no-alpha.
        """
        names = {pair.module: self.module(pair) for pair in self.opened.pairs}
        left_out = self.left_out()
        config, settings = self.settings()
        tensors: dict[str, adapters.Factor] = {}
        for name, tensor in self.tensors():
            if tensors.setdefault(name, tensor) is not tensor:
                raise layout.same_tensor(self.opened, tensors[name].tensor, tensor.tensor, name)
        stored = {name: tensor.to_write() for name, tensor in tensors.items()}
        digest, size = self.write(folder / self.weights, stored, settings)
        if config is not None:
            layout.write_config(folder / CONFIG, config)
        renamed = sum(name != tensor.tensor for name, tensor in tensors.items())
        return Written(digest, size, len(stored), renamed, left_out, names)


class PeftForm(Form):
    """Every tensor under the name by which PEFT finds it, and adapter_config.json."""

    words = "PEFT LoRA"
    weights = WEIGHTS
    dtypes = frozenset(DTYPES)

    def __init__(self, opened: adapters.Adapter, base: Path | None) -> None:
        """Raises InputError: no-config, not-in-format."""
        super().__init__(opened, base)
        self.config = layout.require_config(opened)
        if opened.unwritable is not None:
            raise self.not_held(opened.unwritable, "audit and compare it as it is")
        if opened.format == "mlx":
            layout.refuse_tied_embedding(opened, self.words)

    def module(self, pair: adapters.LoraPair) -> str:
        """The module without the part of a pipeline that diffusers puts before it."""
        part = None if self.opened.loads_in_peft else part_of(pair.module)
        return pair.module if part is None else pair.module.removeprefix(f"{part}.")

    def factor(self, pair: adapters.LoraPair, side: Side) -> str:
        if self.opened.loads_in_peft:
            return peft_name(pair.factors[side].tensor, self.opened.adapter_name)
        if pair.kind == "expert":
            problem = (
                f"{pair.module} holds experts in one tensor; PEFT needs the names of the base's parameters"
            )
            raise self.not_held(problem, "audit and compare it as it is")
        return factor_name("", self.module(pair), pair.kind, side)

    def tensors(self) -> Iterator[tuple[str, adapters.Factor]]:
        """Yield the factors, and every other tensor of an adapter of PEFT, understood or not."""
        yield from super().tensors()
        opened = self.opened
        if opened.loads_in_peft:
            done = {factor.tensor for pair in opened.pairs for factor in pair.factors.values()}
            done |= {note.tensor for note in self.left_out()}
            for name, tensor in adapters.tensors_of(opened.files).items():
                if name not in done:
                    yield peft_name(name, opened.adapter_name), tensor

    def left_out(self) -> tuple[adapters.SkippedTensor, ...]:
        return tuple(note for note in self.opened.other if self.opened.is_foreign(note))

    def settings(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        fields = self.config.fields or {
            "peft_type": "LORA",
            "base_model_name_or_path": self.config.base_model,
            "bias": "none",
            **layout.encode_modules(self.targets, "patterns").fields,
            "target_modules": [target.name for target in self.targets],
        }
        if self.opened.packed("grouped_by_expert"):
            fields = {**fields, **fields_in_peft_order(fields)}
        return fields, {"format": "pt"}


class MlxForm(Form):
    """lora_a (n, r) and lora_b (r, m) of every module, one rank and one scale for all of them.

    mlx-lm gives every module that `keys` names in the last `num_layers` layers (-1: in all) factors of `rank`, and then
    puts those of the file in their place; a name or a shape that does not fit ends the loading.
    Source: mlx-lm 0.32.2, tuner/utils.py (`linear_to_lora_layers`, `load_adapters`).
    """

    words = "MLX-LM LoRA"
    weights = FINAL
    _layer = re.compile(r"(?:.+\.)?(?:layers|h|blocks)\.\d+\.(?P<inner>.+)")
    _known = re.compile(r"model\.layers\.\d+\..+|model\.embed_tokens|lm_head")
    """Modules that mlx-lm calls as transformers does."""

    def module(self, pair: adapters.LoraPair) -> str:
        name = pair.module
        if self.opened.format != "mlx" and (is_split_expert(name) or not self._known.fullmatch(name)):
            some = any(self._known.fullmatch(pair.module) for pair in self.opened.pairs)
            raise self.not_held(
                f"mlx-lm has no known name for {name} (known: model.layers.N.…, model.embed_tokens, lm_head)",
                "leave it out of the adapter, or train it with mlx-lm" if some else "keep the PEFT format",
            )
        return name

    def factor(self, pair: adapters.LoraPair, side: Side) -> str:
        return f"{pair.module}.lora_{side.lower()}"

    def turn(self, words: Words, side: Side, pair: adapters.LoraPair) -> Words:
        if pair.kind != "expert":
            return words.T
        if side == "A":
            return words.reshape(pair.experts, -1, pair.columns)
        return words.reshape(pair.rows, -1, pair.experts).transpose(2, 0, 1)

    def settings(self) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
        opened, first = self.opened, self.targets[0]
        for module in self.targets:
            if module.rank != first.rank or not math.isclose(module.scale, first.scale, rel_tol=1e-12):
                raise self.not_held(
                    f"it has one rank and one scale, but {first.name} has rank {first.rank} and scale {first.scale:g}, "
                    f"and {module.name} has rank {module.rank} and scale {module.scale:g}",
                    f"pad them to one rank first: {self.rewriting('--encoding padded')}; the PEFT format "
                    "can store several: --to peft",
                )
        convolution = next((pair.module for pair in opened.pairs if pair.kind == "conv"), None)
        if convolution is not None:
            raise self.not_held(f"{convolution} is a convolution", "the PEFT format can store it")
        if opened.format != "mlx":
            layout.refuse_tied_embedding(opened, self.words)
        old = read_settings(opened.location) if opened.format == "mlx" else {}
        keys = {
            match["inner"] if (match := self._layer.fullmatch(module.name)) else module.name
            for module in self.targets
        }
        config = {
            **old,
            "fine_tune_type": "lora",
            "num_layers": old.get("num_layers", old.get("lora_layers", -1)),
            "lora_parameters": {
                "rank": first.rank,
                "scale": first.scale,
                "dropout": old.get("lora_parameters", {}).get("dropout", 0.0),
                "keys": sorted(keys),
            },
        }
        if not old and opened.config and opened.config.base_model is not None:
            config["model"] = opened.config.base_model
        return config, {"format": "mlx"}


class DiffusersForm(Form):
    """`<part>.<module>.lora_A.weight`, and a config of PEFT for each part in the header.

    Source: diffusers 0.42.1, loaders/lora_base.py (`_save_lora_weights`), loaders/peft.py (`load_lora_adapter`).
    """

    words = "diffusers LoRA"
    weights = NAME
    dtypes = frozenset(("F32", "F16", "BF16", "F64"))

    def module(self, pair: adapters.LoraPair) -> str:
        """The name behind its part of the pipeline, which the modules tell if the adapter names none."""
        if self.opened.format == "diffusers" and part_of(pair.module):
            return pair.module
        part = part_of_all(pair.module for pair in self.opened.pairs)
        if not part:
            raise self.not_held(
                f"{pair.module} is not a module of a UNet or a transformer of diffusers (down_blocks.…, "
                "transformer_blocks.…)",
                "load it into its own model with PEFT, and save it with the pipeline's save_lora_weights",
            )
        return part + pair.module

    def factor(self, pair: adapters.LoraPair, side: Side) -> str:
        return f"{self.module(pair)}.lora_{side}.weight"

    def settings(self) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
        parts: dict[str, list[layout.Target]] = defaultdict(list)
        for pair, module in zip(self.opened.pairs, self.targets, strict=True):
            part, _, inner = module.name.partition(".")
            if pair.kind not in ("linear", "conv"):
                kind = f"{pair.module} is of the kind {pair.kind}"
                raise self.not_held(kind, "the PEFT format can store it")
            parts[part].append(module._replace(name=inner))
        configs = configs_of(self.opened.files[0]) if self.opened.format == "diffusers" else {}
        header: dict[str, Any] = {}
        for part, inside in sorted(parts.items()):
            fields = {
                **(configs[part].fields if part in configs else {}),
                **layout.encode_modules(inside, "patterns").fields,
                "target_modules": sorted(target.name for target in inside),
            }
            header |= {f"{part}.{name}": value for name, value in fields.items()}
        text = json.dumps(header, indent=2, sort_keys=True)
        return None, {"format": "pt", METADATA: text}


# ---------------------------------------------------------------- GGUF

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Class of the base -> general.architecture."""


class GgufForm(Form):
    """adapter.gguf of a base model whose config.json names the architecture, written through the library `gguf`.

    One number, adapter.lora.alpha, applies to the whole file: s = alpha/r of each tensor, so ranks may differ if s·r
    does not. Rows of q and k of Llama have another order there (two halves of a head become pairs), so those of B do.
    Source: llama.cpp in llama-cpp-python 0.3.36, convert_lora_to_gguf.py and conversion/llama.py (`permute`).
    """

    words = "GGUF LoRA"
    weights = "adapter.gguf"

    def __init__(self, opened: adapters.Adapter, base: Path | None) -> None:
        """Raises InputError: not-in-format, no-config, no-model-config; MissingExtra without the library."""
        super().__init__(opened, base)
        self.library: Any = require("gguf", extra="gguf")
        self.alpha = self._alpha()
        self.family, self.config = self._family()
        self.heads: dict[str, int] = {}
        self.sides = _sides(self.config)

    def _alpha(self) -> float:
        """s·r, which must be the same for all."""
        hint = f"pad them to one rank first: {self.rewriting('--encoding padded')}; the PEFT format can store several"
        alphas = {pair.module: self.opened.scale_of(pair) * pair.rank for pair in self.opened.pairs}
        first, alpha = next(iter(alphas.items()))
        for module, other in alphas.items():
            if not math.isclose(other, alpha, rel_tol=1e-12):
                raise self.not_held(
                    f"it has one α for all, but {first} has α {alpha:g} and {module} α {other:g} (scale times rank)",
                    hint,
                )
        if alpha == 0 or not math.isclose(float(np.float32(alpha)), alpha, rel_tol=1e-6):
            raise self.not_held(f"{first} has α {alpha:g}, and llama.cpp takes 0 for a scale of 1", hint)
        return alpha

    def _family(self) -> tuple[str, Mapping[str, Any]]:
        """general.architecture, and config.json of the base."""
        assert self.opened.config is not None  # a scale is known
        config = model_config_of(self.opened.config, self.opened.location.root, self.base)
        if config is None:
            raise InputError(
                f"{self.opened.location.path}: llama.cpp's names depend on the base model, and no config.json of it "
                "is here",
                code="no-model-config",
                hint="give the base model's folder or its name on the hub: --base-model NAME (Python: base_model=)",
            )
        names = config.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
        family = FAMILIES.get(name) if isinstance(name, str) else None
        if family is None:
            known = ", ".join(FAMILIES)
            raise self.not_held(
                f"the base model is {str(name)[:80]}, and only for {known} was this compared with llama.cpp",
                "llama.cpp's own convert_lora_to_gguf.py reads PEFT's format: --to peft",
            )
        return family, config

    def _heads(self) -> dict[str, int]:
        """Last part of a module's name -> its heads, if rows are reordered."""
        sizes = heads_of(self.config)
        for pair in self.opened.pairs:
            size = sizes.get(pair.module.rpartition(".")[2], 1)
            if not is_integer(size) or size < 1 or pair.rows % (2 * size if size != 1 else 1):
                problem = f"{pair.module} has {pair.rows} rows, which are not those of {size} heads"
                raise self.not_held(problem, "check --base-model")
        return {name: int(size) for name, size in sizes.items() if is_integer(size)}

    def module(self, pair: adapters.LoraPair) -> str:
        """Raises InputError (not-in-format) for a module that the base model does not have."""
        name = llama_cpp_name(pair.module) if pair.kind in ("linear", "embedding") else None
        last, layer = pair.module.rpartition(".")[2], layer_of(pair.module)[1]
        layers = self.config.get("num_hidden_layers")
        problem = None
        if name is None or self.opened.format not in ("peft", "safetensors", "mlx"):
            problem = f"llama.cpp has no name for {pair.module} ({pair.kind}) of this base model"
        elif layer is not None and is_integer(layers) and layer >= layers:
            problem = f"{pair.module} is beyond the {layers} layers of the base model"
        else:
            sides = self.sides.get(last, (None, None))
            for side, has, wants in zip(("rows", "columns"), (pair.rows, pair.columns), sides, strict=True):
                if wants not in (None, has):
                    problem = f"{pair.module} has {has} {side}, and {wants} in the base model"
        if problem is not None:
            raise self.not_held(
                problem, "give the adapter's own base: --base-model NAME (Python: base_model=)"
            )
        # Where head and embedding are one matrix, llama.cpp cannot use an update of either: it multiplies the head by
        # what was turned for the embedding, and aborts; and of a head it knows no tensor.
        if self.config.get("tie_word_embeddings") is True and name in _TIED:
            raise self.not_held(
                f"{pair.module} is both head and embedding of this base model (tie_word_embeddings), and llama.cpp as "
                f"of llama-cpp-python 0.3.36 {_TIED[name]}",
                "merge the adapter into the base with PEFT (merge_and_unload), and convert that",
            )
        return str(name)

    def factor(self, pair: adapters.LoraPair, side: Side) -> str:
        return f"{self.module(pair)}.weight.lora_{side.lower()}"

    def turn(self, words: Words, side: Side, pair: adapters.LoraPair) -> Words:
        """A of an embedding is transposed; rows of q and k of B are in llama.cpp's order."""
        if side == "A":
            return words.T if pair.kind == "embedding" else words
        count = self.heads.get(pair.module.rpartition(".")[2])
        if count is None:
            return words
        return words.reshape(count, 2, pair.rows // count // 2, -1).swapaxes(1, 2).reshape(words.shape)

    def settings(self) -> tuple[None, Mapping[str, Any]]:
        if ARCHITECTURES[self.family]:
            self.heads = self._heads()
        return None, {}

    def write(
        self, path: Path, tensors: Mapping[str, NewTensor], settings: Mapping[str, Any]
    ) -> tuple[str, int]:
        """Write the file through the library."""
        writer = self.library.GGUFWriter(path, self.family)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", self.alpha)
        for name, tensor in tensors.items():
            kind = self.library.GGMLQuantizationType[tensor.dtype]
            size = math.prod(tensor.shape) * DTYPES[tensor.dtype].bits // 8
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), size, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors.values():
            writer.write_tensor_data(np.frombuffer(b"".join(tensor.data), np.uint8))
        writer.close()
        return sha256_file(path), path.stat().st_size


_TIED = {"token_embd": "aborts when it computes with it", "output": "does not load it"}


def _sides(config: Mapping[str, Any]) -> dict[str, tuple[int | None, int | None]]:
    """Last part of a module's name -> rows and columns of its weight, as far as config.json says."""

    def number(name: str) -> int | None:
        value = config.get(name)
        return value if is_integer(value) and value > 0 else None

    hidden, inner, vocabulary = map(number, ("hidden_size", "intermediate_size", "vocab_size"))
    heads = number("num_attention_heads")
    head = number("head_dim") or (hidden // heads if hidden and heads else None)
    groups = number("num_key_value_heads") or heads
    q, kv = (count * head if count and head else None for count in (heads, groups))
    return {
        "q_proj": (q, hidden),
        "k_proj": (kv, hidden),
        "v_proj": (kv, hidden),
        "o_proj": (hidden, q),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
        "embed_tokens": (hidden, vocabulary),
        "lm_head": (vocabulary, hidden),
    }


# ---------------------------------------------------------------- the verb

GGUF = "gguf"
TARGETS: dict[str, type[Form]] = {
    "peft": PeftForm,
    "mlx": MlxForm,
    GGUF: GgufForm,
    "diffusers": DiffusersForm,
}


@public(ConvertSettings)
def convert_adapter(settings: ConvertSettings) -> ConversionReport:
    """Write the adapter at `path` in another format to the folder `output`, and return a report.

    >>> report = convert_adapter("my_adapter", "as_peft")
    >>> report.to, report.modules, report.renamed
    ('peft', 16, 0)

    Weights and scales do not change. Keywords, named like the flags of
    `gradience convert`:

    Raises InputError for an adapter that cannot be read or that the format cannot hold; UsageError (`unknown-target`,
    `output-name`, and for an existing output); VerificationError if the written file reads back differently;
    OutputError if the folder cannot be written. No partial output is left behind.
    """
    source, target = Path(settings.path), Path(settings.output)
    if settings.to not in TARGETS:
        raise UsageError(
            f"{settings.to!r} is not a format that convert can write",
            code="unknown-target",
            hint=did_you_mean(settings.to, TARGETS, f"one of: {', '.join(TARGETS)}"),
        )
    if settings.base_model is not None and settings.to != GGUF:
        raise UsageError(
            f"--base-model has no effect with --to {settings.to}",
            code="base-not-used",
            hint="leave --base-model out (Python: base_model=)",
        )
    if target.suffix == f".{GGUF}" and settings.to != GGUF:
        raise UsageError(
            f"{target} looks like a GGUF file, but the format to write is {settings.to}",
            code="output-name",
            hint="add --to gguf; the output is a folder with the file in it",
        )
    base = None if settings.base_model is None else base_folder(settings.base_model)
    watch = Stopwatch(settings.command)
    check_output(target, source, force=settings.force)
    refuse_foreign_files(target, names_beside(source))
    with (
        open_adapter(source, adapter=settings.adapter, allow_pickle=settings.allow_pickle) as opened,
        whole_folder(target, force=settings.force) as folder,
    ):
        require_order(opened)
        _refuse_nonfinite(opened)
        written = TARGETS[settings.to](opened, base).written_in(folder)
        carried, left = carry_files(opened.location, folder, opened.pickle)
        _check(opened, folder, written.modules)
        refuse_foreign_files(target, os.listdir(folder))
        return ConversionReport(
            source_path=path_text(opened.location.path),
            source_format=words_of(opened.format),
            source_sha256=opened.sha256(),
            source=hub_source(opened.source),
            pickle=opened.pickle is not None,
            output_path=path_text(target),
            output_sha256=written.sha256,
            to=settings.to,
            modules=len(opened.pairs),
            lora_params=opened.lora_params,
            bytes=written.bytes,
            tensors=written.tensors,
            renamed=written.renamed,
            left_out=tuple(TensorNote(**note._asdict()) for note in written.left_out),
            carried_files=tuple(carried),
            left_out_files=tuple(left),
            run=watch.run_info(),
        )


def _refuse_nonfinite(opened: adapters.Adapter) -> None:
    """Raise InputError (non-finite) for factors with NaN or infinity: no format makes an update of them."""
    for pair in opened.pairs:
        for factor in (pair.a, pair.b):
            blocks = adapters.word_blocks(factor.read().reshape(-1, 1), adapters.BLOCK_ELEMENTS)
            if not all(np.isfinite(block).all() for block in blocks()):
                raise InputError(
                    f"{opened.location.path}: {factor.tensor} holds NaN or infinity",
                    code="non-finite",
                    hint="use an earlier checkpoint: the training diverged, or the save overflowed fp16",
                )


def _check(opened: adapters.Adapter, folder: Path, names: Mapping[str, str]) -> None:
    """Read what was written. Raises VerificationError (conversion-differs) unless ranks and scales are the same."""

    def shape_of(pair: adapters.LoraPair) -> tuple[object, ...]:
        # Six digits of the scale: GGUF keeps α in single precision.
        scale = None if pair.scale is None else f"{pair.scale:.6g}"
        return pair.rank, pair.rows, pair.columns, pair.experts, scale

    before = {names.get(pair.module, pair.module): shape_of(pair) for pair in opened.pairs}
    with open_adapter(folder) as again:
        after = {pair.module: shape_of(pair) for pair in again.pairs}
    wrong = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if wrong:
        raise VerificationError(
            f"{opened.location.path}: nothing was written: {wrong[0][:120]} would not be read back unchanged",
            code="conversion-differs",
            hint="please report this, with the adapter's config",
        )
