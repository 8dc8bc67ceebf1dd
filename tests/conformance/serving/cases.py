"""The cases: adapters that `gradience compress` writes, adapters that others write, and adapters that vLLM refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import peft
from peft import PeftModel

from conformance.serving import model
from conformance.serving.model import LINEAR, copy_adapter, make_adapter
from gradience.adapters.patterns import anchored_key
from gradience.artifacts.compression import Encoding
from gradience.audit import audit_adapter
from gradience.compress import compress_adapter
from gradience.plan import Criterion, ToBudget, ToEnergy, ToRank, plan_compression

Section = Literal["compressed", "other", "refused"]
FAINT = (
    "layers.0.self_attn.k_proj",
    "layers.1.self_attn.q_proj",
    "layers.1.self_attn.o_proj",
    "layers.1.mlp.up_proj",
)
"""Modules so faint that a budget leaves them out; each breaks up a group that vLLM joins (q k v; gate up)."""


@dataclass
class Workshop:
    """A folder with the base model and the adapters that were made so far."""

    root: Path
    originals: dict[str, Path] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """The base model."""
        return self.root / "base"

    def prepare(self) -> None:
        """Make the base model and the adapters that the cases start from."""
        model.make_base(self.base)
        linear: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": LINEAR}
        self._make("plain", seed=1, **linear)
        self._make("rsLoRA", seed=2, use_rslora=True, **linear)
        patterns = {
            "rank_pattern": {"q_proj": 4, "down_proj": 6},
            "alpha_pattern": {"down_proj": 27, "k_proj": 5},
        }
        self._make("mixed", seed=3, **linear, **patterns)
        self._make("ranks only", seed=7, rank_pattern={"q_proj": 4}, **linear)
        self._make("rank 16", seed=4, **linear | {"r": 16})
        self._make("embedding", seed=5, **linear | {"target_modules": [*LINEAR, "embed_tokens", "lm_head"]})
        faint = self.originals["faint"] = self.root / "originals" / "faint"
        copy_adapter(self.originals["plain"], faint, config={}, tensors=_faint)

    def _make(self, name: str, seed: int, **settings: Any) -> None:
        folder = self.originals[name] = self.root / "originals" / name
        make_adapter(self.base, folder, seed, **settings)


def _faint(name: str) -> float:
    return 1e-4 if "lora_B" in name and any(part in name for part in FAINT) else 1.0


@dataclass(frozen=True)
class Made:
    """An adapter on disk. oracle: log-probabilities computed without PEFT and without the file, where that is possible.

    ranks: what the plan decided, for compressed adapters.
    """

    path: Path
    oracle: model.Logprobs | None
    ranks: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Case:
    """One adapter.

    max_lora_rank: what vLLM is started with.   refusal: a part of what vLLM must say when it refuses the adapter; empty
    where it must load it.   claimed: only the config says what it is, the tensors are plain: for refusals alone.
    """

    id: str
    what: str
    section: Section
    make: Callable[[Workshop, Path], Made]
    max_lora_rank: int = 8
    refusal: str = ""
    claimed: bool = False


# ---------------------------------------------------------------- written by gradience compress


def _compressed(
    original: str, criterion: Criterion, encoding: Encoding, shop: Workshop, folder: Path
) -> Made:
    source = shop.originals[original]
    plan = plan_compression(audit_adapter(source), criterion)
    compress_adapter(source, plan, folder, encoding=encoding)
    ranks = {row.name: row.new_rank for row in plan.modules}
    return Made(folder, model.dense_logprobs(shop.base, model.updates_of(source), ranks), ranks)


PLANS: tuple[tuple[str, Criterion, str], ...] = (
    ("plain", ToRank(8), "full rank"),
    ("plain", ToRank(3), "rank 3"),
    ("plain", ToBudget(reduction=0.5), "half of the parameters"),
    ("rsLoRA", ToRank(3), "rank 3"),
    ("rsLoRA", ToBudget(reduction=0.5), "half of the parameters"),
    ("mixed", ToEnergy(0.95), "95 % of the energy"),
    ("embedding", ToRank(3), "rank 3"),
    ("faint", ToBudget(reduction=0.6), "40 % of the parameters, four modules left out"),
)


def _compressions() -> list[Case]:
    cases = []
    for original, criterion, words in PLANS:
        one_rank = isinstance(criterion, ToRank)
        encodings: tuple[Encoding, ...] = ("uniform", "patterns", "padded", "folded")
        for encoding in encodings if one_rank else encodings[1:]:
            name = f"{original}, {words}, {encoding}"
            make = partial(_compressed, original, criterion, encoding)
            cases.append(Case(name, f"{original} original, {words}", "compressed", make))
    return cases


# ---------------------------------------------------------------- written by others


def _original(name: str, shop: Workshop, folder: Path) -> Made:
    path = shop.originals[name]
    return Made(path, model.dense_logprobs(shop.base, model.updates_of(path)))


def _edited(config: Mapping[str, Any], shop: Workshop, folder: Path) -> Made:
    copy_adapter(shop.originals["plain"], folder, config=config)
    return Made(folder, model.dense_logprobs(shop.base, model.updates_of(folder)))


def _peft_conversion(shop: Workshop, folder: Path) -> Made:
    loaded = PeftModel.from_pretrained(model.load_base(shop.base), shop.originals["plain"])
    peft.save_as_lora(folder, loaded, rank=0.9)
    return Made(folder, model.dense_logprobs(shop.base, model.updates_of(folder)))


FLOAT_ALPHAS = {
    anchored_key("model.layers.0.self_attn.q_proj"): 5.6568542494923,
    anchored_key("model.layers.1.mlp.down_proj"): 40.25,
}

OTHERS = (
    Case("plain", "r = 8, α = 16, all linear modules", "other", partial(_original, "plain")),
    Case("rsLoRA", "r = 8, α = 16, use_rslora", "other", partial(_original, "rsLoRA")),
    Case("mixed", "rank_pattern and alpha_pattern by suffix", "other", partial(_original, "mixed")),
    Case("ranks only", "rank_pattern without alpha_pattern", "other", partial(_original, "ranks only")),
    Case("embedding", "embed_tokens and lm_head as well", "other", partial(_original, "embedding")),
    Case("rank 16", "r = 16", "other", partial(_original, "rank 16"), max_lora_rank=16),
    Case("α not an integer", "lora_alpha 13.37", "other", partial(_edited, {"lora_alpha": 13.37})),
    Case("α below 1", "lora_alpha 0.87", "other", partial(_edited, {"lora_alpha": 0.87})),
    Case("α 32.0", "lora_alpha written as 32.0", "other", partial(_edited, {"lora_alpha": 32.0})),
    Case(
        "α of modules not an integer",
        "alpha_pattern with 5.6568542494923 and 40.25",
        "other",
        partial(_edited, {"alpha_pattern": FLOAT_ALPHAS}),
    ),
    Case(
        "PEFT's conversion",
        "save_as_lora with an energy of 0.9: r = 1 and patterns",
        "other",
        _peft_conversion,
    ),
)

# ---------------------------------------------------------------- what vLLM refuses


def _trained(settings: Mapping[str, Any], shop: Workshop, folder: Path) -> Made:
    usual: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": LINEAR}
    make_adapter(shop.base, folder, 6, **usual | dict(settings))
    return Made(folder, None)


def _claimed(config: Mapping[str, Any], shop: Workshop, folder: Path) -> Made:
    """A field of the config is set, the tensors are those of a plain adapter."""
    copy_adapter(shop.originals["plain"], folder, config=config)
    return Made(folder, None)


def _high_pattern(shop: Workshop, folder: Path) -> Made:
    return _trained({"rank_pattern": {"q_proj": 16}}, shop, folder)


REFUSED = (
    Case(
        "DoRA",
        "use_dora",
        "refused",
        partial(_trained, {"use_dora": True}),
        refusal="does not yet support DoRA",
    ),
    Case(
        "modules_to_save",
        "lm_head trained and saved whole",
        "refused",
        partial(_trained, {"modules_to_save": ["lm_head"]}),
        refusal="modules_to_save",
    ),
    Case("lora_bias", "lora_bias", "refused", partial(_trained, {"lora_bias": True}), refusal="lora_bias"),
    Case(
        "bias",
        "bias: all",
        "refused",
        partial(_claimed, {"bias": "all"}),  # a Llama has no biases to train
        refusal="bias is not supported",
        claimed=True,
    ),
    Case(
        "token rows",
        "trainable_token_indices",
        "refused",
        partial(_trained, {"trainable_token_indices": [3, 4, 5]}),
        refusal="token_adapter",
    ),
    Case(
        "rank too high",
        "r = 16, max_lora_rank 8",
        "refused",
        partial(_original, "rank 16"),
        refusal="rank 16",
    ),
    Case("rank_pattern too high", "r = 8, one rank of 16", "refused", _high_pattern, refusal="rank 16"),
    Case(
        "PiSSA",
        "init_lora_weights: pissa",
        "refused",
        partial(_claimed, {"init_lora_weights": "pissa"}),
        refusal="pissa",
        claimed=True,
    ),
    Case(
        "aLoRA",
        "alora_invocation_tokens",
        "refused",
        partial(_claimed, {"alora_invocation_tokens": [1, 2]}),
        refusal="aLoRA",
        claimed=True,
    ),
    Case(
        "layer_replication",
        "layer_replication",
        "refused",
        partial(_claimed, {"layer_replication": [[0, 2]]}),
        refusal="layer_replication",
        claimed=True,
    ),
)

CASES: tuple[Case, ...] = (*_compressions(), *OTHERS, *REFUSED)
