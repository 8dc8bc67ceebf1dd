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
from gradience.adapters.patterns import anchored_key
from gradience.audit.adapter import audit_adapter
from gradience.compress.adapter import write_compressed
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
    make: Callable[[Workshop, Path], CaseAdapter]
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
    plan = plan_compression(audit_adapter(source), criterion)
    write_compressed(source, plan, folder, encoding=encoding)
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


def _original(name: str, shop: Workshop, folder: Path) -> CaseAdapter:
    path = shop.originals[name]
    return CaseAdapter(path, None if name == "experts" else model.dense_logprobs(shop.base, path))


def _edited(config: Mapping[str, Any], shop: Workshop, folder: Path) -> CaseAdapter:
    copy_adapter(shop.originals["plain"], folder, config=config)
    return CaseAdapter(folder, model.dense_logprobs(shop.base, folder))


def _float_alphas(shop: Workshop, folder: Path) -> CaseAdapter:
    names = sorted(model.updates_of(shop.originals["plain"]))
    alphas = {anchored_key(names[0]): 5.6568542494923, anchored_key(names[-1]): 40.25}
    return _edited({"alpha_pattern": alphas}, shop, folder)


def _peft_conversion(shop: Workshop, folder: Path) -> CaseAdapter:
    loaded = PeftModel.from_pretrained(shop.base.load(), shop.originals["plain"])
    peft.save_as_lora(folder, loaded, rank=0.9)
    return CaseAdapter(folder, model.dense_logprobs(shop.base, folder))


def _trained(settings: Mapping[str, Any], shop: Workshop, folder: Path) -> CaseAdapter:
    make_adapter(shop.base, folder, 6, **shop.usual | dict(settings))
    return CaseAdapter(folder, None)


def _trained_plain(
    settings: Callable[[Architecture], Mapping[str, Any]], shop: Workshop, folder: Path
) -> CaseAdapter:
    """Settings that change which modules are trained, and nothing about what each of them adds."""
    trained = _trained(settings(shop.architecture), shop, folder)
    return CaseAdapter(trained.path, model.dense_logprobs(shop.base, trained.path))


OTHERS = (
    Case("plain", "r = 8, α = 16, all linear modules", "other", partial(_original, "plain")),
    Case(
        "two modules",
        "two of the linear modules",
        "other",
        partial(_trained_plain, lambda it: {"target_modules": [it.linear[0], it.linear[2]]}),
    ),
    Case(
        "by expression",
        "target_modules as an expression",
        "other",
        partial(_trained_plain, lambda it: {"target_modules": rf".*\.({'|'.join(it.linear)})"}),
    ),
    Case(
        "one layer",
        "layers_to_transform: [1]",
        "other",
        partial(_trained_plain, lambda it: {"layers_to_transform": [1]}),
    ),
    Case(
        "some excluded",
        "exclude_modules",
        "other",
        partial(_trained_plain, lambda it: {"exclude_modules": [it.linear[0]]}),
    ),
    Case("rsLoRA", "r = 8, α = 16, use_rslora", "other", partial(_original, "rsLoRA")),
    Case("mixed", "rank_pattern and alpha_pattern by suffix", "other", partial(_original, "mixed")),
    Case("ranks only", "rank_pattern without alpha_pattern", "other", partial(_original, "ranks only")),
    Case("embedding", "embedding and head as well", "other", partial(_original, "embedding")),
    *(
        Case(
            f"{words} alone",
            f"LoRA on the {words}, beside the linear modules",
            "other",
            partial(_trained_plain, lambda it, index=index: {"target_modules": [*it.linear, it.ends[index]]}),
            fits=lambda it: len(it.ends) == 2,
        )
        for index, words in enumerate(("embedding", "head"))
    ),
    Case("saved head", "the head trained and saved whole", "other", partial(_original, "saved head")),
    Case(
        "experts",
        "stacked experts (target_parameters) as well",
        "other",
        partial(_original, "experts"),
        fits=_has_experts,
    ),
    Case("rank 16", "r = 16", "other", partial(_original, "rank 16"), max_lora_rank=16, fits=_first),
    Case("α not an integer", "lora_alpha 13.37", "other", partial(_edited, {"lora_alpha": 13.37})),
    Case("α below 1", "lora_alpha 0.87", "other", partial(_edited, {"lora_alpha": 0.87})),
    Case("α 32.0", "lora_alpha written as 32.0", "other", partial(_edited, {"lora_alpha": 32.0})),
    Case(
        "α of modules not an integer", "alpha_pattern with 5.6568542494923 and 40.25", "other", _float_alphas
    ),
    Case(
        "PEFT's conversion",
        "save_as_lora with an energy of 0.9: r = 1 and patterns",
        "other",
        _peft_conversion,
    ),
    Case(
        "gaussian",
        "init_lora_weights: gaussian",
        "other",
        partial(_edited, {"init_lora_weights": "gaussian"}),
    ),
)

# ---------------------------------------------------------------- what few runtimes know


def _claimed(config: Mapping[str, Any], shop: Workshop, folder: Path) -> CaseAdapter:
    """A field of the config is set, the tensors are those of a plain adapter."""
    copy_adapter(shop.originals["plain"], folder, config=config)
    return CaseAdapter(folder, None)


def _unannounced_head(shop: Workshop, folder: Path) -> CaseAdapter:
    """There is a saved head, and the config does not name it: PEFT loads it by its name (of a tied model, twice)."""
    copy_adapter(shop.originals["saved head"], folder, config={"modules_to_save": None})
    return CaseAdapter(folder, model.dense_logprobs(shop.base, folder))


def _high_pattern(shop: Workshop, folder: Path) -> CaseAdapter:
    return _trained({"rank_pattern": {shop.architecture.linear[0]: 16}}, shop, folder)


def _token_rows(shop: Workshop, folder: Path) -> CaseAdapter:
    rows = {shop.architecture.embedding: [3, 4, 5]}
    return _trained({"trainable_token_indices": rows}, shop, folder)


SPECIAL = (
    Case(
        "head there, not announced",
        "the tensor of a saved head, no modules_to_save in the config",
        "special",
        _unannounced_head,
        fits=lambda it: it.task == "CAUSAL_LM" and not it.config().tie_word_embeddings,
    ),
    Case(
        "DoRA",
        "use_dora",
        "special",
        partial(_trained, {"use_dora": True}),
        refusal="does not yet support DoRA",
    ),
    Case("lora_bias", "lora_bias", "special", partial(_trained, {"lora_bias": True}), refusal="lora_bias"),
    *(
        Case(
            f"bias: {which}",
            f"bias: {which}, with the biases",
            "special",
            partial(_trained, {"bias": which}),
            refusal="bias is not supported",
            fits=lambda architecture: architecture.biases,
        )
        for which in ("all", "lora_only")
    ),
    *(
        Case(
            f"bias: {which}, none there",
            f"bias: {which}, and no bias among the tensors",
            "special",
            partial(_edited, {"bias": which}),
            refusal="bias is not supported",
        )
        for which in ("all", "lora_only")
    ),
    Case(
        "token rows",
        "trainable_token_indices",
        "special",
        _token_rows,
        refusal="token_adapter",
        fits=lambda architecture: bool(architecture.embedding),
    ),
    Case(
        "rank too high",
        "r = 16, max_lora_rank 8",
        "special",
        partial(_original, "rank 16"),
        refusal="rank 16",
        fits=_first,
    ),
    Case(
        "rank_pattern too high",
        "r = 8, one rank of 16, max_lora_rank 8",
        "special",
        _high_pattern,
        refusal="rank 16",
        fits=_first,
    ),
    Case(
        "rank 520",
        "r = 520, the largest max_lora_rank: 512",
        "special",
        partial(_trained, {"r": 520, "lora_alpha": 520}),
        max_lora_rank=512,
        refusal="rank 520",
        fits=_first,
    ),
    Case(
        "PiSSA",
        "init_lora_weights: pissa",
        "special",
        partial(_claimed, {"init_lora_weights": "pissa"}),
        refusal="pissa",
        claimed=True,
    ),
    Case(
        "aLoRA",
        "alora_invocation_tokens",
        "special",
        partial(_claimed, {"alora_invocation_tokens": [1, 2]}),
        refusal="aLoRA",
        claimed=True,
    ),
    Case(
        "layer_replication",
        "layer_replication",
        "special",
        partial(_claimed, {"layer_replication": [[0, 2]]}),
        refusal="layer_replication",
        claimed=True,
    ),
)
