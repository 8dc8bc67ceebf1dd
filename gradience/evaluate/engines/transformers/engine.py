"""One loaded base model and any number of LoRA adapters, switched by name; some combinations are refused."""

from __future__ import annotations

import gc
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

import gradience
from gradience.adapters import config as peft_config
from gradience.adapters.config import PeftConfig
from gradience.adapters.keys import PREFIX
from gradience.digests import Sha256
from gradience.errors import InputError, UsageError
from gradience.evaluate.adapters import AdapterIdentity
from gradience.evaluate.checks import base_notes
from gradience.evaluate.engines import base as protocol
from gradience.evaluate.engines.transformers import forward
from gradience.files.records import RecordKind
from gradience.models import load
from gradience.models.settings import ModelSettings
from gradience.models.tokenizers import CachedTokenizer, digest_of_files, token_counts, tokenizer_digest
from gradience.words import first_line, listed

if TYPE_CHECKING:
    from gradience.evaluate.inputs import EvaluateInputs

SAMPLED = 16
"""Values of each parameter in the digest of a base: reading all of them would take longer than some evaluations."""
_WRAPPERS = ("base_layer", "original_module", "token_adapter")
"""Attributes in which PEFT keeps a wrapped module."""


class TransformersEngine(protocol.Engine):
    """A causal language model or a sequence classifier of transformers, with adapters of PEFT.

    Factors are held in float32 whatever the base's dtype is (PEFT's default), the same for every adapter. The
    docstrings of `Engine` say what each method does.
    """

    name: ClassVar[str] = "transformers"
    answers: ClassVar[frozenset[RecordKind]] = frozenset(
        {"classification", "generation", "choices", "scores"}
    )
    local: ClassVar[bool] = True
    follows: ClassVar[bool] = True

    def __init__(self, model: Any, tokenizer: Any, *, untrained: Iterable[str] | None = None) -> None:
        """Use a model that is loaded already, quantized or not.

        untrained: names of parameters that the checkpoint did not hold; every adapter must bring them. None: it is not
        known, so that an adapter of a classifier must bring some head.
        """
        from peft import PeftModel

        if isinstance(model, PeftModel):
            raise UsageError(
                "the model has an adapter already",
                code="not-a-base",
                hint="pass the base model without an adapter, then add the adapter",
            )
        self.base = model.eval()
        cached = isinstance(tokenizer, CachedTokenizer)
        self.encoder = tokenizer if cached else CachedTokenizer(lambda: tokenizer)
        """Tokenizes each text once, for all adapters."""
        self.tokenizer = self.encoder.tokenizer
        self.untrained = frozenset(untrained or ())
        self._head_unknown = untrained is None and self.classifies
        self._base_facts = {
            "base": Path(model.config._name_or_path).name,
            "base_sha256": fingerprint(model.base_model),
            "tokenizer_sha256": tokenizer_digest(self.tokenizer),
            "quantization": quantization_of(model.config),
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
        }
        # As they are before PEFT renames them when it wraps modules.
        self._weights = dict(model.named_parameters())
        self._vocabulary = getattr(model.get_input_embeddings(), "num_embeddings", 0)
        self._modules = tuple(name for name, _ in model.named_modules())
        self._peft: Any = None
        self._adapters = {}
        self._keys: dict[str, str] = {}
        self._added = 0
        self._written: dict[tuple[str | None, str], protocol.Output] = {}
        self._states: dict[str, forward.KeptReference] = {}

    @classmethod
    def inspect(cls, inputs: EvaluateInputs) -> Iterator[str]:
        yield from base_notes(inputs)

    @classmethod
    def tokenizer_of(cls, model: ModelSettings) -> Any:
        return CachedTokenizer(lambda: load.load_tokenizer(model))

    @classmethod
    def numerics(cls, device: str = "auto") -> dict[str, Any]:
        return numerics_on(load.choose_device(device))

    @classmethod
    def identify(cls, model: ModelSettings, device: str = "auto") -> dict[str, Any]:
        return {
            "base": load.fingerprint_of(model),
            "bfloat16": load.computes_fast(
                torch.bfloat16, load.choose_device(device)
            ),  # for the dtype `auto`
            **({"tokenizer": digest_of_files(Path(model.tokenizer))} if model.tokenizer else {}),
        }

    @classmethod
    def batch_tokens(cls, device: str) -> int:
        """A processor says that memory ends when the system has run out of it: there batches stay small."""
        return protocol.CPU_TOKENS if load.choose_device(device).type == "cpu" else protocol.TRIED_TOKENS

    @classmethod
    def load(
        cls, model: ModelSettings, *, labels: int | None = None, device: str = "auto", tokenizer: Any = None
    ) -> Self:
        with memory():
            base = load.load_base(model, labels=labels, device=device, tokenizer=tokenizer)
        return cls(base.model, base.tokenizer, untrained=base.untrained)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"engine": self.name, **self._base_facts, **numerics_on(self.base.device)}

    @property
    def max_length(self) -> int | None:
        return load.context_of(self.base.config)

    def count_tokens(self, texts: Sequence[tuple[str, ...]]) -> list[int]:
        return token_counts(self.encoder, texts)

    @property
    def adapters(self) -> Mapping[str, AdapterIdentity]:
        return MappingProxyType(self._adapters)

    @property
    def classifies(self) -> bool:
        return not self.base.can_generate()

    def add(self, name: str, folder: Path | str) -> None:
        """Load the PEFT adapter in `folder` beside those already loaded.

        Raises UsageError (`adapter-name`: the name is taken) and InputError: `not-found`, `other-method`
        (not LoRA), `adapter-changes-base` (it would change the base of the other adapters), `no-head` (it
        lacks a part that the base has no trained weights for: its outputs would be noise), `adapter-misfit`.
        """
        if name in self._adapters:
            raise UsageError(f"there is already an adapter called {name!r}", code="adapter-name")
        folder = Path(folder)
        digests = AdapterIdentity.of(folder)
        given = peft_config.read_config(folder / "adapter_config.json")
        peft_config.check_for_peft(given, [*self._weights, *self._modules])
        config = self._read(given)
        refuse_what_cannot_share(config, folder)
        self._check_what_comes_besides_lora(config, folder)
        self._added += 1
        # Not `name`: PEFT looks for names inside the keys of tensors, and torch forbids dots in them.
        key = f"gradience{self._added}x"
        try:
            with memory():
                misfits = self._load(key, folder, config)
        except protocol.OutOfMemoryError:
            self._unload(key)
            raise
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # No such modules, other shapes, or a module that another adapter has wrapped in another way.
            misfits = [" ".join(str(error).split())[:200] or type(error).__name__]
        if misfits:
            self._unload(key)
            raise InputError(
                f"{folder}: does not fit this base model and its other adapters: {misfits[0]}",
                code="adapter-misfit",
                hint=f"load the base that it was trained on ({given.base_model or 'its config names none'}), or run it"
                " separately: LoRA, trained tokens and full weights of one module cannot share a model",
            )
        self._adapters[name], self._keys[name] = digests, key

    def remove(self, name: str) -> None:
        self._unload(self._key(name))
        del self._adapters[name], self._keys[name]
        self._written = {key: output for key, output in self._written.items() if key[0] != name}
        self._states.pop(name, None)

    def classify(
        self,
        name: str | None,
        texts: Sequence[tuple[str, str | None]],
        *,
        max_length: int | None,
        lora: bool = True,
    ) -> list[protocol.Classified]:
        """Raises UsageError (`mixed-examples`)."""
        with memory(), self.using(name, lora=lora) as model:
            return forward.classify_batch(model, self.encoder, texts, max_length=max_length)

    def generate(
        self, name: str | None, prompts: Sequence[str], how: protocol.Decoding
    ) -> list[protocol.Output]:
        """Raises UsageError (`no-room`) and InputError (`empty-prompt`, `no-end-token`)."""
        with memory(), self.using(name) as model:
            outputs = forward.generate_batch(model, self.encoder, prompts, how)
        self._written.update(zip(((name, prompt) for prompt in prompts), outputs, strict=True))
        return outputs

    def follow(
        self,
        name: str | None,
        batches: Sequence[Sequence[protocol.Draft]],
        how: protocol.Decoding,
        *,
        reference: str | None,
        near_tie: float,
    ) -> list[list[tuple[protocol.Output, protocol.Score | None]]]:
        """Raises what `generate` and `score` raise."""
        drafts = [self._known(reference, draft) for batch in batches for draft in batch]
        rows = [forward.followed_row(self.encoder, draft, how) for draft in drafts]
        begun = [forward.GeneratedRow(self.encoder, how, row.draft.truncated) for row in rows]
        scored: list[protocol.Score | None] = [None] * len(rows)
        unfinished: dict[int, Any] = {}
        at_once = max(map(len, batches))

        def finish(places: Sequence[int]) -> None:
            kept = [unfinished.pop(place) for place in places]
            with self.using(name) as model:
                forward.generate_batch(
                    model,
                    self.encoder,
                    [drafts[place].prompt for place in places],
                    how,
                    begun=[begun[place] for place in places],
                    cache=None if None in kept else forward.cache_of(kept),
                )

        with memory(), torch.inference_mode():
            for places in self._passes(rows):
                few = [rows[place] for place in places]
                with self.using(name) as model:
                    read = forward.read_drafts(few, model, self.encoder)
                for place, row, one in zip(places, few, read, strict=True):
                    forward.verified(row, one, near_tie, begun[place])
                    if begun[place].stopped_by is not None:
                        continue
                    if self.base.dtype == torch.float32:
                        unfinished[place] = one.begin(len(row.draft.prompt) + len(begun[place].ids) - 1)
                    else:  # a pass may round far more than generation: start over
                        begun[place], unfinished[place] = replace(begun[place], ids=[], gaps=[]), None
                for place, score in zip(places, self._scored(few, read, reference), strict=True):
                    scored[place] = score
                del read
                while len(unfinished) >= at_once:
                    finish(list(unfinished)[:at_once])
            if unfinished:
                finish(list(unfinished))
        answered = iter(zip((row.output() for row in begun), scored, strict=True))
        return [[next(answered) for _ in batch] for batch in batches]

    def _scored(
        self, rows: Sequence[forward.FollowedRow], read: Sequence[forward.ReadDraft], reference: str | None
    ) -> Sequence[protocol.Score | None]:
        """Return the score of each row's response."""
        if read[0].response is None:
            return [None] * len(rows)
        of_reference: Sequence[torch.Tensor | forward.Summary | None] = [None] * len(rows)
        if reference is not None:
            kept = self._states.setdefault(reference, forward.KeptReference())
            with self.using(reference) as model:
                of_reference = kept.read(rows, model, self.encoder)
        return [
            forward.scores_of([row.response], one.response[0], expected, one.response[1])[0]
            for row, one, expected in zip(rows, read, of_reference, strict=True)
            if row.response is not None and one.response is not None
        ]

    def near_tie(self, name: str, drafts: Sequence[protocol.Draft], how: protocol.Decoding) -> float:
        """Outputs that this engine has not written are generated again."""
        unknown = [draft.prompt for draft in drafts if (name, draft.prompt) not in self._written]
        for start in range(0, len(unknown), 16):
            self.generate(name, unknown[start : start + 16], how)
        outputs = [self._written[name, draft.prompt] for draft in drafts]
        rows = [
            forward.followed_row(self.encoder, protocol.Draft(draft.prompt, output), how)
            for draft, output in zip(drafts, outputs, strict=True)
        ]
        largest = 0.0
        with memory(), torch.inference_mode():
            for places in self._passes(rows):
                with self.using(name) as model:
                    read = forward.read_drafts([rows[place] for place in places], model, self.encoder)
                for place, one in zip(places, read, strict=True):
                    changes = map(abs, map(operator.sub, one.gaps, outputs[place].gaps))
                    largest = max(largest, *changes)
        return 2 * largest

    def _known(self, reference: str | None, draft: protocol.Draft) -> protocol.Draft:
        """Return the draft with the ids that this engine has written, if it has."""
        written = self._written.get((reference, draft.prompt))
        return draft if written is None else replace(draft, output=written)

    def _passes(self, rows: Sequence[forward.FollowedRow]) -> Iterator[list[int]]:
        return forward.passes(rows, max(1, self._vocabulary), self.base.device)

    def score(
        self,
        name: str | None,
        pairs: Sequence[tuple[str, str]],
        how: protocol.Reading,
        reference: str | None = None,
    ) -> list[protocol.Score]:
        """Scores of one batch of (prompt, response): one forward pass, and one of the reference.

        Whole texts are read window by window, each a batch of its own, since a window is as long as the model allows.
        Raises InputError (`response-too-long`, `no-end-token`).
        """
        with memory():
            if how.rolling:
                texts = []
                for _, text in pairs:
                    windows = forward.windows_of(self.encoder, text, how.max_length)
                    texts.append(
                        forward.summed_up([self._scores(name, [one], how, reference)[0] for one in windows])
                    )
                return texts
            return self._scores(
                name, [forward.fitted(self.encoder, *pair, how) for pair in pairs], how, reference
            )

    def _scores(
        self,
        name: str | None,
        pairs: Sequence[forward.EncodedPair],
        how: protocol.Reading,
        reference: str | None,
    ) -> list[protocol.Score]:
        def logits(adapter: str | None) -> torch.Tensor:
            with self.using(adapter) as model:
                return forward.response_logits(model, self.encoder, pairs, how)

        with torch.inference_mode():
            of_reference = None if reference is None else logits(reference)
            known = of_reference if name == reference else None
            return forward.scores_of(pairs, logits(name) if known is None else known, of_reference)

    def close(self) -> None:
        self.base = self._peft = None
        self._weights, self._written, self._states = {}, {}, {}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def using(self, name: str | None, *, lora: bool = True) -> Iterator[Any]:
        """Yield the model with the adapter `name`; None is the base model.

        With `lora=False` only the adapter's non-LoRA part, its head, is used: ΔW = 0.
        Raises UsageError (`adapter-name`: unknown name) and InputError (`no-head`: None was given, and parts
        of the base are untrained).
        """
        if name is not None:
            key = self._key(name)
            self._peft.set_adapter(key)
            with nullcontext() if lora else _without_lora(self._peft):
                yield self._peft
            return
        if self.untrained:
            raise InputError(
                f"{self._base_facts['base']}: {listed(sorted(self.untrained), 1)} untrained: without an adapter its"
                " outputs are noise",
                code="no-head",
                hint="evaluate an adapter; lora=False uses its head without its LoRA",
            )
        with nullcontext() if self._peft is None else self._peft.disable_adapter():
            yield self.base if self._peft is None else self._peft

    def _key(self, name: str) -> str:
        if name not in self._keys:
            raise UsageError(f"there is no adapter called {name!r}", code="adapter-name")
        return self._keys[name]

    def _read(self, given: PeftConfig) -> Any:
        """Return PEFT's own reading of a config that `check_for_peft` has seen."""
        from peft import LoraConfig

        fields = {**given.fields, "peft_type": "LORA"}
        try:
            config = peft_config.without_imports(LoraConfig.from_peft_type(**fields))  # type: ignore[no-untyped-call]
        except (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{given.path}: PEFT cannot read it: {' '.join(str(error).split())[:200]}",
                code="bad-config",
                hint="save the adapter again with PEFT",
            ) from error
        tokens = config.trainable_token_indices or []
        for name, rows in (tokens if isinstance(tokens, dict) else {"": tokens}).items():
            tables = [weight for key, weight in self._weights.items() if key.endswith(f"{name}.weight")]
            table = max(map(len, tables), default=0) if name else self._vocabulary
            if max(rows, default=-1) >= table:
                raise InputError(
                    f"{given.path}: trainable_token_indices holds {max(rows)}, and the base has {table:,} tokens",
                    code="adapter-misfit",
                    hint=f"load the base that it was trained on ({given.base_model or 'its config names none'})",
                )
        return config

    def _load(self, key: str, folder: Path, config: Any) -> list[str]:
        """Load the adapter with PEFT; return the names that are missing from the file or unknown to the model."""
        from peft import get_peft_model
        from peft.utils.other import AuxiliaryTrainingWrapper, TrainableTokensWrapper
        from safetensors import safe_open

        config.inference_mode = True
        # The factors come from the file; MiCA would take an SVD of every module first.
        config.init_lora_weights = True
        if self._peft is None:
            with load.quiet():
                self._peft = get_peft_model(self.base, config, adapter_name=key)
        else:
            self._peft.add_adapter(key, config)
        for wrapper in self._peft.modules():
            if not isinstance(wrapper, AuxiliaryTrainingWrapper):
                continue
            # PEFT nests them, and cannot run that.
            if isinstance(wrapper.original_module, AuxiliaryTrainingWrapper):
                return ["it trains a module that another adapter trains in another way"]
            if isinstance(wrapper, TrainableTokensWrapper) and key not in wrapper._adapters:
                # PEFT 0.21 asks the file of every adapter for the tokens that another adapter has trained.
                vars(wrapper)["adapter_state_dict_load_map"] = lambda _: {}
            else:
                vars(wrapper).pop("adapter_state_dict_load_map", None)
        result = self._peft.load_adapter(str(folder), adapter_name=key)
        self._peft.eval()
        with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as file:
            stored = set(file.keys())
        # Of an embedding that has other rows than the base's, PEFT 0.21 saves the wrapped copies as well.
        plain = {name: original_name(name.replace(".modules_to_save.", ".")) for name in stored}
        copies = {name for name in stored if plain[name] != name and plain[name] in stored}
        return [
            *(f"no tensor for {name}" for name in result.missing_keys),
            *(f"no place for the tensor {name}" for name in result.unexpected_keys if name not in copies),
        ]

    def _unload(self, key: str) -> None:
        """Take the adapter away, whole or half loaded."""
        from peft.tuners.lora import LoraLayer

        others = [] if self._peft is None else [other for other in self._peft.peft_config if other != key]
        if others:
            self._peft.set_adapter(others[0])  # PEFT warns about deleting the active one
            if key in self._peft.peft_config:
                self._peft.delete_adapter(key)
            for layer in self._peft.modules():  # what PEFT leaves behind when it fails half-way
                if isinstance(layer, LoraLayer) and key in layer.r:
                    layer.delete_adapter(key)
            _unwrap(self._peft, others)
        else:
            self._peft = None
            _unwrap(self.base)
            if hasattr(self.base, "peft_config"):
                del self.base.peft_config

    def _check_what_comes_besides_lora(self, config: Any, folder: Path) -> None:
        """Modules that are trained as a whole must be there, and nothing else may replace weights of the base.

        PEFT says nothing about a head that is declared and not stored. And it may store embeddings of the base
        beside LoRA on them, and would overwrite the base with them when it loads.
        """
        from safetensors import safe_open

        # PEFT adds the head of a classifier by itself.
        whole = {*(config.modules_to_save or ()), *peft_config.HEADS_OF_TASK.get(config.task_type or "", ())}
        brought, weights = peft_config.SavedNames(whole), self._weights
        declared = {name for name in weights if brought.find(name.rpartition(".")[0])}
        with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as file:
            stored = {original_name(key.removeprefix(PREFIX)): key for key in file.keys()}  # noqa: SIM118
            lacking = (self.untrained - declared) | (declared - stored.keys())
            if lacking or (self._head_unknown and not declared):
                missing = f"weights for {listed(sorted(lacking), 1)}" if lacking else "classification head"
                raise InputError(
                    f"{folder}: contains no {missing}",
                    code="no-head",
                    hint='retrain with task_type="SEQ_CLS", and put other missing modules into modules_to_save',
                )
            for name in weights.keys() & stored.keys() - declared:
                if not torch.equal(file.get_tensor(stored[name]).to(weights[name]), weights[name]):
                    raise changes_the_base(folder, f"its own {name}")


@contextmanager
def memory() -> Iterator[None]:
    """Raise OutOfMemoryError for torch's out-of-memory errors inside the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not load.lacks_memory(error):
            raise
        raise protocol.OutOfMemoryError(first_line(error)) from None


def _unwrap(model: Any, without: Sequence[str] = ()) -> None:
    """Put the base's own modules back in place of wrappers; those with adapters of `without` stay.

    PEFT's unload would leave a trained head in, and its delete_adapter leaves empty wrappers.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            inner = layer
            while isinstance(inner, AuxiliaryTrainingWrapper) and not inner._adapters.intersection(without):
                inner = inner.original_module
            if isinstance(inner, LoraLayer) and not without:
                inner = inner.get_base_layer()
            if inner is not layer:
                setattr(parent, name, inner)


@contextmanager
def _without_lora(model: Any) -> Iterator[None]:
    """Turn every LoRA layer off and leave trained heads on. (PEFT's disable_adapter takes the heads away too.)"""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


# ---------------------------------------------------------------- what may not share a base


def refuse_what_cannot_share(config: Any, folder: Path) -> None:
    """Raise InputError for an adapter that would change the base under the others, or applies to some tokens only."""
    if config.alora_invocation_tokens:
        raise InputError(
            f"{folder}: an activated LoRA (alora_invocation_tokens), which applies only after certain tokens",
            code="other-method",
            hint="evaluate it with PEFT's own generate: here its LoRA would apply to other tokens",
        )
    start = peft_config.initialization_of(config.init_lora_weights)
    for change, changes in {
        f"bias={config.bias!r}": config.bias != "none",
        "kasa_config": getattr(config, "kasa_config", None),  # since PEFT 0.21
        "layer_replication": config.layer_replication,
        f"init_lora_weights={config.init_lora_weights!r}": start is not None and not start.keeps_base,
    }.items():
        if changes:
            raise changes_the_base(folder, change)


def changes_the_base(folder: Path, part: str) -> InputError:
    """Return the error for an adapter that would change the base under the others."""
    return InputError(
        f"{folder}: {part} changes the base's weights, which the other adapters share",
        code="adapter-changes-base",
        hint="retrain with bias='none'; for PiSSA and similar methods, save it as plain LoRA with PEFT (docs/audit.md)",
    )


def original_name(name: str) -> str:
    """Return the name of a parameter of the base before PEFT wrapped its module, however often.

    >>> original_name("mlp.experts.base_layer.base_layer.down_proj")
    'mlp.experts.down_proj'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


# ---------------------------------------------------------------- facts for the header of records


def numerics_on(device: torch.device) -> dict[str, Any]:
    """Return device, threads and versions, which may move an answer on equal inputs. Fields of `ExamplesRun`."""
    return {
        "device": load.device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {
            "gradience": gradience.__version__,
            **{name: version(name) for name in ("torch", "transformers", "peft", "tokenizers")},
        },
    }


def fingerprint(model: Any) -> str:
    """Return sha256 over name, shape, dtype and a few values of every parameter.

    Of a sequence classifier give the part below the head: the head is drawn anew at each loading.
    """
    digest = Sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        values = parameter.detach().flatten()
        few = values[:: max(1, len(values) // SAMPLED)][:SAMPLED].contiguous()
        digest.update(few.view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def quantization_of(config: Any) -> str | None:
    """Return how the weights are packed, in words; None when they are not."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    facts = settings if isinstance(settings, dict) else settings.to_dict()
    method = str(getattr(facts["quant_method"], "value", facts["quant_method"]))
    if facts.get("load_in_4bit"):
        return f"{method} {facts['bnb_4bit_quant_type']}"
    return f"{method} int8" if facts.get("load_in_8bit") else method
