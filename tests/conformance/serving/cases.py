"""The cases: adapters that `gradience compress` writes, adapters that PEFT writes, and adapters that only PEFT loads.

The same for every architecture, as far as it has what they train.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import peft
from peft import PeftModel

from conformance.serving import model
from conformance.serving.architectures import Architecture
from conformance.serving.model import Base, copy_adapter, make_adapter
from gradience.adapters.config import anchored_key
from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_opened
from gradience.compress.adapter import write_compressed
from gradience.compress.settings import WritingSettings
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import Criterion, ToBudget, ToEnergy, ToRank
from gradience.reports.base.encodings import Encoding

Section = Literal["compressed", "other", "special"]
FIRST = "LlamaForCausalLM"
"""Ranks above 8 are asked of it alone: vLLM needs a process of its own for each max_lora_rank."""


@dataclass
class Workshop:
    """A folder with a base model and the adapters that were made so far."""

    architecture: Architecture
    root: Path
    originals: dict[str, Path] = field(default_factory=dict)

    @property
    def base(self) -> Base:
        """The base model."""
        return Base(self.architecture, self.root / "base")

    def prepare(self) -> None:
        """Make the base model and the adapters that the cases start from."""
        it = self.architecture
        it.make_base(self.root / "base")
        self._make("plain", seed=1)
        self._make("rsLoRA", seed=2, use_rslora=True)
        ranks = {it.linear[0]: 4, it.linear[-1]: 6}
        self._make("mixed", seed=3, rank_pattern=ranks, alpha_pattern={it.linear[-1]: 27, it.linear[1]: 5})
        self._make("ranks only", seed=7, rank_pattern={it.linear[0]: 4})
        self._make("rank 16", seed=4, r=16)
        self._make("embedding", seed=5, target_modules=[*it.linear, *it.ends])
        self._make("saved head", seed=6, modules_to_save=[it.saved])
        if it.experts:
            self._make("experts", seed=8, target_parameters=list(it.experts))
        faint = self.originals["faint"] = self.root / "originals" / "faint"
        left_out = set(sorted(model.updates_of(self.originals["plain"]))[1::4])
        copy_adapter(
            self.originals["plain"], faint, config={}, tensors=partial(_faint_factor, frozenset(left_out))
        )

    def _make(self, name: str, seed: int, **settings: Any) -> None:
        folder = self.originals[name] = self.root / "originals" / name
        make_adapter(self.base, folder, seed, **self.usual | settings)

    @property
    def usual(self) -> dict[str, Any]:
        """LoRA on all linear modules."""
        return {"r": 8, "lora_alpha": 16, "target_modules": list(self.architecture.linear)}


def _faint_factor(modules: frozenset[str], name: str) -> float:
    """Every fourth module is so faint that a budget leaves it out: that breaks up what runtimes join (q k v)."""
    module, _, _ = name.removeprefix("base_model.model.").partition(".lora_B")
    return 1e-4 if module in modules else 1.0


@dataclass(frozen=True)
class CaseAdapter:
    """An adapter on disk. oracle: log-probabilities computed without PEFT and without the file, where that is possible.

    ranks: what the plan decided, for compressed adapters.
    """

    path: Path
    oracle: model.Logprobs | None
    ranks: Mapping[str, int] | None = None


Make = Callable[[Workshop, Path], CaseAdapter]


@dataclass(frozen=True)
class Case:
    """One adapter.

    max_lora_rank: what vLLM is started with.   refusal: a part of what vLLM must say where it serves the architecture;
    empty where it is free to load the adapter.   claimed: only the config says what it is, the tensors are plain, so
    that only a refusal can be right.   fits: the architectures that have what it trains.
    """

    id: str
    what: str
    section: Section
    make: Make
    max_lora_rank: int = 8
    refusal: str = ""
    claimed: bool = False
    fits: Callable[[Architecture], bool] = lambda architecture: True


def cases_of(architecture: Architecture) -> list[Case]:
    """The cases that this architecture has."""
    return [case for case in (*_compressions(), *OTHERS, *SPECIAL) if case.fits(architecture)]


def _first(architecture: Architecture) -> bool:
    return architecture.name == FIRST


def _has_experts(architecture: Architecture) -> bool:
    return bool(architecture.experts)


# ---------------------------------------------------------------- written by gradience compress


def _compressed(
    original: str, criterion: Criterion, encoding: Encoding, shop: Workshop, folder: Path
) -> CaseAdapter:
    source = shop.originals[original]
    with open_adapter(source) as opened:
        plan = plan_compression(audit_opened(opened), criterion)
        write_compressed(opened, plan, folder, WritingSettings(encoding=encoding))
    ranks = {row.name: row.new_rank for row in plan.modules}
    oracle = None if original == "experts" else model.dense_logprobs(shop.base, source, ranks)
    return CaseAdapter(folder, oracle, ranks)


PLANS: tuple[tuple[str, Criterion, str], ...] = (
    ("plain", ToRank(3), "rank 3"),
    ("plain", ToBudget(reduction=0.5), "half of the parameters"),
    ("rsLoRA", ToRank(3), "rank 3"),
    ("rsLoRA", ToBudget(reduction=0.5), "half of the parameters"),
    ("mixed", ToEnergy(0.95), "95 % of the energy"),
    ("embedding", ToRank(3), "rank 3"),
    ("faint", ToBudget(reduction=0.6), "40 % of the parameters, some modules left out"),
    ("saved head", ToRank(3), "rank 3"),
    ("experts", ToRank(3), "rank 3"),
)


def _compressions() -> list[Case]:
    cases = []
    for original, criterion, words in PLANS:
        one_rank = isinstance(criterion, ToRank)
        encodings: tuple[Encoding, ...] = ("uniform", "patterns", "padded", "folded")
        for encoding in encodings if one_rank else encodings[1:]:
            name = f"{original}, {words}, {encoding}"
            make = partial(_compressed, original, criterion, encoding)
            fits = _has_experts if original == "experts" else (lambda architecture: True)
            cases.append(Case(name, f"{original} original, {words}", "compressed", make, fits=fits))
    return cases


# ---------------------------------------------------------------- written by others


def _original(name: str) -> Make:
    def make(shop: Workshop, folder: Path) -> CaseAdapter:
        path = shop.originals[name]
        return CaseAdapter(path, None if name == "experts" else model.dense_logprobs(shop.base, path))

    return make


def _edited(**config: Any) -> Make:
    """A plain adapter with other fields in its config."""

    def make(shop: Workshop, folder: Path) -> CaseAdapter:
        copy_adapter(shop.originals["plain"], folder, config=config)
        return CaseAdapter(folder, model.dense_logprobs(shop.base, folder))

    return make


def _float_alphas(shop: Workshop, folder: Path) -> CaseAdapter:
    names = sorted(model.updates_of(shop.originals["plain"]))
    alphas = {anchored_key(names[0]): 5.6568542494923, anchored_key(names[-1]): 40.25}
    return _edited(alpha_pattern=alphas)(shop, folder)


def _peft_conversion(shop: Workshop, folder: Path) -> CaseAdapter:
    loaded = PeftModel.from_pretrained(shop.base.load(), shop.originals["plain"])
    peft.save_as_lora(folder, loaded, rank=0.9)
    return CaseAdapter(folder, model.dense_logprobs(shop.base, folder))


def _trained(settings: Callable[[Architecture], Mapping[str, Any]]) -> Make:
    def make(shop: Workshop, folder: Path) -> CaseAdapter:
        make_adapter(shop.base, folder, 6, **shop.usual | dict(settings(shop.architecture)))
        return CaseAdapter(folder, None)

    return make


def _trained_with(**settings: Any) -> Make:
    return _trained(lambda it: settings)


def _trained_plain(settings: Callable[[Architecture], Mapping[str, Any]]) -> Make:
    """Settings that change which modules are trained, and nothing about what each of them adds."""

    def make(shop: Workshop, folder: Path) -> CaseAdapter:
        trained = _trained(settings)(shop, folder)
        return CaseAdapter(trained.path, model.dense_logprobs(shop.base, trained.path))

    return make


def _targets(choose: Callable[[Architecture], Any]) -> Make:
    return _trained_plain(lambda it: {"target_modules": choose(it)})


def _with_end(index: int) -> Make:
    return _targets(lambda it: [*it.linear, it.ends[index]])


def _two_ends(architecture: Architecture) -> bool:
    return len(architecture.ends) == 2


def _other(id: str, what: str, make: Make, **more: Any) -> Case:
    return Case(id, what, "other", make, **more)


OTHERS = (
    _other("plain", "r = 8, α = 16, all linear modules", _original("plain")),
    _other("two modules", "two of the linear modules", _targets(lambda it: [it.linear[0], it.linear[2]])),
    _other(
        "by expression",
        "target_modules as an expression",
        _targets(lambda it: rf".*\.({'|'.join(it.linear)})"),
    ),
    _other("one layer", "layers_to_transform: [1]", _trained_plain(lambda it: {"layers_to_transform": [1]})),
    _other(
        "some excluded", "exclude_modules", _trained_plain(lambda it: {"exclude_modules": [it.linear[0]]})
    ),
    _other("rsLoRA", "r = 8, α = 16, use_rslora", _original("rsLoRA")),
    _other("mixed", "rank_pattern and alpha_pattern by suffix", _original("mixed")),
    _other("ranks only", "rank_pattern without alpha_pattern", _original("ranks only")),
    _other("embedding", "embedding and head as well", _original("embedding")),
    _other(
        "embedding alone", "LoRA on the embedding, beside the linear modules", _with_end(0), fits=_two_ends
    ),
    _other("head alone", "LoRA on the head, beside the linear modules", _with_end(1), fits=_two_ends),
    _other("saved head", "the head trained and saved whole", _original("saved head")),
    _other("experts", "stacked experts (target_parameters) as well", _original("experts"), fits=_has_experts),
    _other("rank 16", "r = 16", _original("rank 16"), max_lora_rank=16, fits=_first),
    _other("α not an integer", "lora_alpha 13.37", _edited(lora_alpha=13.37)),
    _other("α below 1", "lora_alpha 0.87", _edited(lora_alpha=0.87)),
    _other("α 32.0", "lora_alpha written as 32.0", _edited(lora_alpha=32.0)),
    _other("α of modules not an integer", "alpha_pattern with 5.6568542494923 and 40.25", _float_alphas),
    _other("PEFT's conversion", "save_as_lora with an energy of 0.9: r = 1 and patterns", _peft_conversion),
    _other("gaussian", "init_lora_weights: gaussian", _edited(init_lora_weights="gaussian")),
)

# ---------------------------------------------------------------- what few runtimes know


def _claimed(**config: Any) -> Make:
    """A field of the config is set, the tensors are those of a plain adapter."""

    def make(shop: Workshop, folder: Path) -> CaseAdapter:
        copy_adapter(shop.originals["plain"], folder, config=config)
        return CaseAdapter(folder, None)

    return make


def _unannounced_head(shop: Workshop, folder: Path) -> CaseAdapter:
    """There is a saved head, and the config does not name it: PEFT loads it by its name (of a tied model, twice)."""
    copy_adapter(shop.originals["saved head"], folder, config={"modules_to_save": None})
    return CaseAdapter(folder, model.dense_logprobs(shop.base, folder))


def _untied(architecture: Architecture) -> bool:
    return architecture.task == "CAUSAL_LM" and not architecture.config().tie_word_embeddings


def _has_biases(architecture: Architecture) -> bool:
    return architecture.biases


def _has_embedding(architecture: Architecture) -> bool:
    return bool(architecture.embedding)


def _special(id: str, what: str, make: Make, refusal: str = "", **more: Any) -> Case:
    return Case(id, what, "special", make, refusal=refusal, **more)


NO_BIAS = "bias is not supported"
SPECIAL = (
    _special(
        "head there, not announced", "the tensor of a saved head, no modules_to_save in the config",
        _unannounced_head, fits=_untied,
    ),
    _special("DoRA", "use_dora", _trained_with(use_dora=True), "does not yet support DoRA"),
    _special("lora_bias", "lora_bias", _trained_with(lora_bias=True), "lora_bias"),
    _special("bias: all", "bias: all, with the biases", _trained_with(bias="all"), NO_BIAS, fits=_has_biases),
    _special(
        "bias: lora_only", "bias: lora_only, with the biases", _trained_with(bias="lora_only"), NO_BIAS,
        fits=_has_biases,
    ),
    _special("bias: all, none there", "bias: all, and no bias among the tensors", _edited(bias="all"), NO_BIAS),
    _special(
        "bias: lora_only, none there", "bias: lora_only, and no bias among the tensors", _edited(bias="lora_only"),
        NO_BIAS,
    ),
    _special(
        "token rows", "trainable_token_indices",
        _trained(lambda it: {"trainable_token_indices": {it.embedding: [3, 4, 5]}}), "token_adapter",
        fits=_has_embedding,
    ),
    _special("rank too high", "r = 16, max_lora_rank 8", _original("rank 16"), "rank 16", fits=_first),
    _special(
        "rank_pattern too high", "r = 8, one rank of 16, max_lora_rank 8",
        _trained(lambda it: {"rank_pattern": {it.linear[0]: 16}}), "rank 16", fits=_first,
    ),
    _special(
        "rank 520", "r = 520, the largest max_lora_rank: 512", _trained_with(r=520, lora_alpha=520), "rank 520",
        max_lora_rank=512, fits=_first,
    ),
    _special(
        "PiSSA", "init_lora_weights: pissa", _claimed(init_lora_weights="pissa"), "pissa", claimed=True
    ),
    _special(
        "aLoRA", "alora_invocation_tokens", _claimed(alora_invocation_tokens=[1, 2]), "aLoRA", claimed=True
    ),
    _special(
        "layer_replication", "layer_replication", _claimed(layer_replication=[[0, 2]]), "layer_replication",
        claimed=True,
    ),
)  # fmt: skip
