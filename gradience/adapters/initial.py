"""The trained update if initialization changed the base: s·(B·A − B₀·A₀), as the factors [B, −B₀]·[A; A₀].

PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ subtract s·B₀·A₀ from the weights before the first step, so that the
model starts as the original base and s·B·A contains the subtracted part. Relative to the original base, the
update is the difference from that initial adapter: a LoRA of rank 2r. PEFT's conversion writes the same.
Source: PEFT 0.21, tuners/lora/model.py, `subtract_mutated_init`; peft_model.py, `save_pretrained`.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.config import PeftConfig, config_of, initialization_of
from gradience.adapters.tensors import DTYPES, Words, decode, encode
from gradience.errors import InputError, UsageError

SAME = 1e-12
"""Scales that differ relatively by no more are one: both are quotients."""
_OF_THE_START = ("loftq_config", "corda_config", "lora_ga_config")
"""Settings of an initialization, which its result no longer has."""


def subtract_initial(opened: Adapter, initial: Adapter) -> Adapter:
    """Return `opened` as the difference from `initial`, with pairs and a config to match. Closing it closes
    both.

    Raises UsageError (initial-needless) if B·A already is the update; InputError (initial-mismatch) if the
    two adapters do not belong together, or the pair for a module is missing in one of them.
    """
    with ExitStack() as stack:
        stack.callback(opened.close)
        stack.callback(initial.close)
        config = _changed_base(opened)
        wrong = _why_not_the_start(initial, config)
        if wrong:
            raise _mismatch(opened, initial, wrong)
        factor = math.sqrt(2) if config.use_rslora else 2
        starts = {pair.module: pair for pair in initial.pairs}
        pairs = []
        for pair in opened.pairs:
            difference = _difference(pair, starts.pop(pair.module, None), factor)
            if isinstance(difference, str):
                raise _mismatch(opened, initial, difference)
            pairs.append(difference)
        if starts:
            raise _mismatch(opened, initial, f"it has a module {min(starts)}, which the adapter has not")
        old = config.fields
        # The config of a plain LoRA of twice the rank, at the same scales.
        fields = {
            **old,
            "r": 2 * (config.r or 0),
            "lora_alpha": factor * (config.lora_alpha or 0),
            "init_lora_weights": True,
            **{name: None for name in _OF_THE_START if name in old},
        }
        for name, times in (("rank_pattern", 2), ("alpha_pattern", factor)):
            if old.get(name):
                fields[name] = {key: times * value for key, value in old[name].items()}
        return replace(
            opened,
            config=config_of(config.path, fields),
            pairs=pairs,
            initial=initial,
            init=config.init,
            stack=stack.pop_all(),
        )


def _changed_base(opened: Adapter) -> PeftConfig:
    """The config of an adapter whose start changed the base. Raises UsageError, InputError for all others."""
    config = opened.config
    if not opened.of_peft or config is None:
        raise InputError(
            f"{opened.location.path}: no PEFT adapter_config.json with its initialization",
            code="initial-mismatch",
            hint="put the adapter_config.json beside the weights, or leave --initial-adapter out",
        )
    start = initialization_of(config.init)
    if start is None or start.keeps_base:
        raise UsageError(
            f"{opened.location.path}: init_lora_weights is {config.init[:60]!r}, which does not change the base: "
            "s·B·A is the whole update, so there is no initial adapter to subtract",
            code="initial-needless",
            hint="leave --initial-adapter out (Python: initial_adapter=)",
        )
    if config.use_dora:
        raise InputError(
            f"{opened.location.path}: a DoRA adapter: its update is not the difference of two products",
            code="initial-mismatch",
            hint="audit it without --initial-adapter",
        )
    return config


def _why_not_the_start(initial: Adapter, config: PeftConfig) -> str | None:
    """Return why an adapter cannot be the start of this training, as far as it tells."""
    known = initial.config
    if known is None or not initial.of_peft:
        return "it has no adapter_config.json of PEFT"
    if known.init.lower() not in ("true", config.init.lower()):
        return f"its init_lora_weights is {known.init[:60]!r}, not true or {config.init!r}"
    if None not in (known.base_model, config.base_model) and known.base_model != config.base_model:
        return f"it is for the base {known.base_model!r}, the adapter for {config.base_model!r}"
    if initial.unaudited:
        return f"{initial.unaudited[0].tensor}: {initial.unaudited[0].reason}"
    first = next((pair for pair in initial.pairs if pair.kind == "linear"), None)
    if first is not None and not decode(first.b.read()).any():
        return f"B is 0 in {first.module}, and {config.init} does not start so"
    return None


def _mismatch(opened: Adapter, initial: Adapter, problem: str) -> InputError:
    return InputError(
        f"{initial.location.path}: not the initial adapter of {opened.location.path}: {problem}",
        code="initial-mismatch",
        hint="give the adapter saved before the first step of this training, with init_lora_weights=True",
    )


def _difference(pair: LoraPair, start: LoraPair | None, factor: float) -> LoraPair | str:
    """Return the pair [B, −B₀], [A; A₀], or the reason for its absence."""
    if start is None:
        return f"it has no module {pair.module}"
    if pair.groups > 1 or pair.experts > 1:
        return f"{pair.module} is grouped or stacked: such differences are not read"
    there, here = (f"A {list(of.a.entry.shape)} and B {list(of.b.entry.shape)}" for of in (start, pair))
    if here != there:
        return f"{pair.module} has {there} there, and {here} in the adapter"
    if pair.scale is None or start.scale is None or not math.isclose(pair.scale, start.scale, rel_tol=SAME):
        return f"{pair.module} has the scale {start.scale} there, and {pair.scale} in the adapter"
    return replace(
        pair,
        a=_stacked(pair.a, start.a, axis=0, negative=False),
        b=_stacked(pair.b, start.b, axis=1, negative=True),
        rank=2 * pair.rank,
        declared_rank=None if pair.declared_rank is None else 2 * pair.declared_rank,
        alpha=None if pair.alpha is None else factor * pair.alpha,
        difference=True,
    )


def _stacked(factor: Factor, start: Factor, *, axis: int, negative: bool) -> Factor:
    """Both factors as one, along the axis of the rank, in a type that holds both exactly."""
    dtype = factor.entry.dtype
    if dtype != start.entry.dtype:
        dtype = DTYPES["F64" if "F64" in (dtype.name, start.entry.dtype.name) else "F32"]
    shape = list(factor.entry.shape)
    shape[axis] *= 2

    def stack(words: Words) -> Words:
        first = words if factor.turn is None else factor.turn(words)
        second = start.read()
        if negative or dtype != start.entry.dtype:
            values = decode(second)
            second = encode(-values if negative else values, dtype)
        if dtype != factor.entry.dtype:
            first = encode(decode(first), dtype)
        return np.concatenate([first, second], axis=axis)

    entry = factor.entry._replace(dtype=dtype, shape=tuple(shape), size=math.prod(shape) * dtype.bits // 8)
    return factor._replace(entry=entry, turn=stack)
