"""What a person should know about an adapter: rules over measured rows and the config. Pure.

One finding per code and cause, with a count: an adapter of 224 modules must not print 224 lines.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

from gradience.adapters.config import PeftConfig
from gradience.adapters.experts import guessed_orders
from gradience.adapters.inventory import DORA_REASON, Note
from gradience.adapters.keys import parse_key
from gradience.artifacts.audit import Finding, LayerAudit, Severity

RANDOM_POSITION = 0.85
"""null_position above which factors look random. Trained adapters of strangers: median 0.02 to 0.2."""
RANDOM_MIN_RANK = 4
"""Below this rank a trained and a random spectrum cannot be told apart."""
SATURATED_SHARE = 0.85
"""k@90 / r from which a module uses nearly all of its rank (random factors: 0.88 to 1)."""
COARSE_BOUND = 1e-3
"""error_bound from which a reader must know: the printed digits are no longer true."""
CLASSIFIER_HEADS = ("classifier", "score")
"""PEFT 0.21 adds both to modules_to_save of every classifier (peft_model.py); a model has one of them."""
DEAD_RATIO = 1e-3
"""‖ΔW‖_F below this fraction of the family's median: the module hardly moved."""
DIVERGED_NORM = 1e3
"""‖ΔW‖_F above this is larger than any weight matrix of a language model; strangers' diverged runs had 1.9e4."""
SPIKE_SHARE = 0.99
SPIKE_RATIO = 3.0
"""A rank-one spike: σ₁ holds 99 % of the energy, at three times the family's median norm."""
OUTLIER_DEVIATIONS = 8.0
OUTLIER_MIN_FAMILY = 6


class Facts(NamedTuple):
    """All that the rules look at."""

    layers: Sequence[LayerAudit]
    config: PeftConfig | None
    other: Sequence[Note]
    unaudited: Sequence[Note]
    ghosts: Sequence[str]
    nonfinite: Sequence[str]
    """One sentence per factor with NaN or infinity."""


Rule = Callable[[Facts], Iterator[Finding]]


def find(facts: Facts) -> tuple[Finding, ...]:
    """All findings, the gravest first."""
    order: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
    found = [finding for rule in RULES for finding in rule(facts)]
    return tuple(sorted(found, key=lambda finding: order[finding.severity]))


def blocks_suggestions(findings: Iterable[Finding]) -> bool:
    """True where B·A is not the learned update, or parts of it are no numbers: no rank may be suggested."""
    return any(finding.code in BLOCKING for finding in findings)


BLOCKING = frozenset(("init-not-update", "init-noise", "variant-not-update", "non-finite"))


def _names(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _many(
    code: str, severity: Severity, names: Sequence[str], message: str, hint: str, total: int | None = None
) -> Iterator[Finding]:
    """One finding for all modules in `names`, if there are any."""
    if names:
        part = f" of {total}" if total is not None else ""
        head = f"{len(names)}{part} modules" if len(names) > 1 or total else "1 module"
        yield Finding(
            code=code,
            severity=severity,
            module=names[0],
            message=f"{head} {message}: {_names(names)}",
            hint=hint,
        )


# ---------------------------------------------------------------- is B·A the update at all?

_MUTATED_BASE = ("pissa", "olora", "corda", "lora_ga")


def _initialisation(facts: Facts) -> Iterator[Finding]:
    init = facts.config.init.lower() if facts.config else "true"
    if init.startswith(_MUTATED_BASE):
        yield Finding(
            code="init-not-update",
            severity="error",
            message=(
                f"initialised with {init}: the base weights were changed at the start and B·A contains that change. "
                "These are spectra of B·A, not of what training learned"
            ),
            hint=(
                "save it with PEFT's path_initial_model_for_weight_conversion (a plain LoRA of rank 2r) "
                "and audit that; no rank is suggested from this one"
            ),
        )
    elif init.startswith("loftq"):
        yield Finding(
            code="init-not-update",
            severity="error",
            message="initialised with LoftQ: B·A contains the correction of the quantised base, not only the update",
            hint="no rank is suggested from it",
        )
    elif init in ("orthogonal", "false"):
        what = "orthogonal factors" if init == "orthogonal" else "random non-zero factors"
        yield Finding(
            code="init-noise",
            severity="error",
            message=f"initialised with {what} ({init}): B·A held noise of full rank r before training",
            hint="energy ranks are inflated by it; no rank is suggested",
        )
    elif init not in ("true", "gaussian", "eva", "mica"):
        yield Finding(
            code="init-unknown",
            severity="warning",
            message=f"unknown initialisation {init[:60]!r}: unless it starts from B·A = 0, this is not the update",
            hint="check what it does before using a suggestion",
        )


def _variant(facts: Facts) -> Iterator[Finding]:
    fields = facts.config.fields if facts.config else {}
    for name, what in (
        ("use_qalora", "QA-LoRA (inputs are pooled before A)"),
        ("use_bdlora", "BD-LoRA (block-diagonal factors)"),
        ("kasa_config", "KaSA (a diagonal between the factors, and a truncated base)"),
    ):
        if fields.get(name):
            yield Finding(
                code="variant-not-update",
                severity="error",
                message=f"{what}: the update is not s·B·A",
                hint="the spectra are those of B·A; no rank is suggested",
            )
    if fields.get("alora_invocation_tokens"):
        yield Finding(
            code="activated-lora",
            severity="info",
            message="activated LoRA: the update acts only after its invocation tokens",
        )


def _dora(facts: Facts) -> Iterator[Finding]:
    magnitudes = sum(note.reason == DORA_REASON for note in facts.other)
    declared = bool(facts.config and facts.config.use_dora)
    if magnitudes:
        yield Finding(
            code="dora",
            severity="warning",
            message=(
                f"DoRA: {_count(magnitudes, 'magnitude vector')} beside the factors. ΔW is not s·B·A alone; "
                "audited is the low-rank part of the direction"
            ),
            hint="judge a smaller rank by outputs; truncation keeps the magnitudes only where the base is at hand",
        )
    if facts.config and declared != bool(magnitudes):
        found = "no magnitude vectors" if declared else "magnitude vectors"
        yield Finding(
            code="config-disagrees",
            severity="error",
            message=f"the config says use_dora={str(declared).lower()}, the file holds {found}",
            hint="the file and the config do not belong together, or the save is incomplete",
        )


# ---------------------------------------------------------------- config against tensors


def _no_config(facts: Facts) -> Iterator[Finding]:
    if facts.config is None:
        yield Finding(
            code="no-config",
            severity="warning",
            message="no adapter_config.json: α (and so every norm), initialisation and variant are unknown",
            hint="put the adapter_config.json beside the weights",
        )
    elif any(layer.scale == 0 for layer in facts.layers):
        yield Finding(
            code="zero-scale",
            severity="error",
            message="α is 0 for some modules: their update is multiplied by 0 and does nothing",
            hint="set lora_alpha",
        )


def _declared_ranks(facts: Facts) -> Iterator[Finding]:
    wrong = [
        layer for layer in facts.layers if layer.declared_r not in (None, layer.r) and layer.expert is None
    ]
    if wrong:
        first = wrong[0]
        yield from _many(
            "rank-disagrees",
            "error",
            [layer.name for layer in wrong],
            f"with another rank than the config says (tensors {first.r}, config {first.declared_r})",
            "the tensors are believed here (also for s = α/r); PEFT will not load this: correct r or rank_pattern",
        )


def _targets(facts: Facts) -> Iterator[Finding]:
    config = facts.config
    if config is None:
        return
    modules = {layer.name for layer in facts.layers} | {
        parse_key(note.tensor).module for note in facts.unaudited
    }
    targets = config.target_modules if isinstance(config.target_modules, tuple) else ()
    ends = _ends(modules)
    missing = [target for target in (*targets, *config.target_parameters) if target not in ends]
    if missing and targets != ("all-linear",):
        yield Finding(
            code="target-unmatched",
            severity="warning",
            message=f"targets that no module of the file matches: {_names(missing, 6)}",
            hint="a typo in target_modules means that those modules were never trained",
        )
    guessed = guessed_orders(config)
    if guessed:
        yield Finding(
            code="parameter-order",
            severity="warning",
            message=(
                f"several parameters of one module are targeted ({_names(guessed)}); the file does not say which "
                "tensor belongs to which: named in alphabetical order"
            ),
            hint="compare the shapes; rank_pattern and alpha_pattern may be assigned to the wrong one of them",
        )
    for label, table in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for key, reason in table.skipped.items():
            yield Finding(
                code="pattern-skipped",
                severity="error",
                message=f"{label} key {key[:80]!r} was not evaluated ({reason}): rank or scale may be wrong",
                hint="write the key as the escaped name of the module",
            )
        if table.unmatched:
            yield Finding(
                code="pattern-unmatched",
                severity="warning",
                message=f"{label} keys that match no module: {_names([key[:80] for key in table.unmatched])}",
                hint="PEFT ignores them; a key must match the end of a module's name",
            )


def _ends(names: Iterable[str]) -> set[str]:
    """Every name, and what stands behind each of its dots: what a list of target_modules may say (PEFT's rule)."""
    ends: set[str] = set()
    for name in names:
        ends.add(name)
        dot = name.find(".")
        while dot >= 0:
            ends.add(name[dot + 1 :])
            dot = name.find(".", dot + 1)
    return ends


def _stretches(names: Iterable[str], lengths: set[int]) -> set[str]:
    """All stretches of so many parts of the dotted names. A set, because both lists may be long."""
    found: set[str] = set()
    for name in names if lengths else ():
        parts = name.split(".")
        for length in lengths:
            found.update(".".join(parts[start : start + length]) for start in range(len(parts) - length + 1))
    return found


def _saved_parts(facts: Facts) -> Iterator[Finding]:
    config = facts.config
    if config is None:
        return
    tensors = [note.tensor for note in facts.other]
    if config.bias != "none" and not any(tensor.endswith("bias") for tensor in tensors):
        yield Finding(
            code="bias-missing",
            severity="warning",
            message=f"the config says bias={config.bias!r}, the file holds none: it may not be the whole trained model",
            hint="save it again with PEFT's save_pretrained",
        )
    held = _stretches(tensors, {name.count(".") + 1 for name in config.modules_to_save})
    absent = [name for name in config.modules_to_save if name not in held]
    heads = [name for name in CLASSIFIER_HEADS if name in config.modules_to_save]
    if config.task_type in ("SEQ_CLS", "TOKEN_CLS") and set(heads) - set(absent):
        absent = [name for name in absent if name not in heads]
    if absent:
        yield Finding(
            code="saved-module-missing",
            severity="warning",
            message=f"modules_to_save that the file does not hold: {_names(absent)}",
            hint="those modules would be loaded untrained",
        )


def _ghosts(facts: Facts) -> Iterator[Finding]:
    if facts.ghosts:
        yield Finding(
            code="ghost-copies",
            severity="warning",
            message=(
                f"{_count(len(facts.ghosts), 'tensor')} repeat a module under original_module or modules_to_save: "
                f"{_names(facts.ghosts, 2)}"
            ),
            hint="they are counted once; a server may refuse the file",
        )


def _unaudited(facts: Facts) -> Iterator[Finding]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for note in facts.unaudited:
        by_reason[note.reason].append(note.tensor)
    for reason, tensors in by_reason.items():
        yield Finding(
            code="unaudited",
            severity="error",
            module=tensors[0],
            message=f"{_count(len(tensors), 'tensor')} not audited: {reason}: {_names(tensors, 2)}",
            hint="the figures below leave them out",
        )


# ---------------------------------------------------------------- the numbers


def _nonfinite(facts: Facts) -> Iterator[Finding]:
    if facts.nonfinite:
        more = f" (and {len(facts.nonfinite) - 1} more factors)" if len(facts.nonfinite) > 1 else ""
        yield Finding(
            code="non-finite",
            severity="error",
            message=facts.nonfinite[0] + more,
            hint="the training diverged, or the save overflowed fp16: this adapter is broken",
        )


def _cancellation(facts: Facts) -> Iterator[Finding]:
    """Factors that cancel: ‖A‖·‖B‖ is so much larger than ‖BA‖ that their rounding shows."""
    lost = [layer.label for layer in facts.layers if layer.status == "unsupported"]
    yield from _many(
        "cancelled",
        "error",
        lost,
        "cannot be measured: A and B cancel, and what is left of B·A is below their rounding",
        "two opposite adapters concatenated? such a module does nothing measurable",
        total=len(facts.layers),
    )
    coarse = [layer.label for layer in facts.layers if (layer.error_bound or 0.0) > COARSE_BOUND]
    yield from _many(
        "imprecise",
        "warning",
        [name for name in coarse if name not in set(lost)],
        f"are known to less than {COARSE_BOUND:.1%}: A and B nearly cancel",
        "see error_bound and eta of the modules",
        total=len(facts.layers),
    )


def _untrained(facts: Facts) -> Iterator[Finding]:
    names = [layer.label for layer in facts.layers if layer.status == "untrained"]
    if not names:
        return
    if len(names) == len(facts.layers):
        yield Finding(
            code="untrained",
            severity="error",
            message=f"all {len(names)} modules are untrained: B·A = 0 exactly",
            hint="this is a fresh adapter, or the trained weights were not the ones saved",
        )
    else:
        yield from _many(
            "dead-modules",
            "warning",
            names,
            "never trained (B·A = 0)",
            "they get the smallest rank; check that their gradients flow (frozen or unused modules)",
            total=len(facts.layers),
        )


def _random(facts: Facts) -> Iterator[Finding]:
    able = [layer for layer in facts.layers if layer.null_position is not None and layer.r >= RANDOM_MIN_RANK]
    names = [layer.label for layer in able if (layer.null_position or 0.0) >= RANDOM_POSITION]
    if names and len(names) == len(able):
        yield Finding(
            code="looks-random",
            severity="error",
            message=f"all {len(names)} modules look random: spectra as random factors of these shapes have them",
            hint="a synthetic adapter, or one that was hardly trained: a suggestion from it means nothing",
        )
    else:
        yield from _many(
            "looks-random",
            "warning",
            names,
            "look random (spectra like those of random factors)",
            "hardly trained, or trained to use every direction: compare with the rest of their family",
            total=len(facts.layers),
        )


def _saturated(facts: Facts) -> Iterator[Finding]:
    names = [
        layer.label
        for layer in facts.layers
        if layer.energy_rank_90 is not None
        and layer.r >= 2
        and layer.energy_rank_90 >= SATURATED_SHARE * layer.r
        and (layer.null_position is None or layer.null_position < RANDOM_POSITION)
    ]
    yield from _many(
        "saturated",
        "warning",
        names,
        "use nearly all of their rank (k@90 near r)",
        "the rank may be too small for them; a larger probe would tell",
        total=len(facts.layers),
    )


def _shape_ceiling(facts: Facts) -> Iterator[Finding]:
    names = [layer.label for layer in facts.layers if layer.r > min(layer.shape)]
    yield from _many(
        "rank-above-shape",
        "warning",
        names,
        "with a rank above what their shape can use (min(m, n))",
        "the surplus is wasted",
    )


def _families(layers: Sequence[LayerAudit]) -> dict[str, list[LayerAudit]]:
    families: dict[str, list[LayerAudit]] = defaultdict(list)
    for layer in layers:
        if layer.fro_norm:
            families[layer.family].append(layer)
    return families


def _norms(facts: Facts) -> Iterator[Finding]:
    diverged = [layer.label for layer in facts.layers if (layer.fro_norm or 0.0) >= DIVERGED_NORM]
    yield from _many(
        "diverged-norm",
        "warning",
        diverged,
        f"with ‖ΔW‖_F above {DIVERGED_NORM:g}",
        "larger than a weight matrix itself: did the training diverge?",
    )
    weak, spikes = [], []
    for members in _families(facts.layers).values():
        typical = median(layer.fro_norm or 0.0 for layer in members)
        for layer in members:
            norm = layer.fro_norm or 0.0
            if norm < DEAD_RATIO * typical:
                weak.append(layer.label)
            top_share = 1 / layer.stable_rank if layer.stable_rank else 0.0
            if layer.r > 1 and top_share >= SPIKE_SHARE and norm >= SPIKE_RATIO * typical:
                spikes.append(layer.label)
    yield from _many(
        "nearly-dead",
        "warning",
        weak,
        "hardly moved (norm far below their family's)",
        "frozen for most of the training, or cut off from the loss?",
    )
    yield from _many(
        "rank-one-spike",
        "warning",
        spikes,
        "are one large direction (a rank-one spike)",
        "adapters like this add up badly with others; a lower learning rate or α avoids it",
    )


def _outliers(facts: Facts) -> Iterator[Finding]:
    names = []
    for members in _families(facts.layers).values():
        if len(members) < OUTLIER_MIN_FAMILY:
            continue
        for measure in ("fro_norm", "stable_rank"):
            values = [math.log(getattr(layer, measure)) for layer in members]
            center = median(values)
            spread = median(abs(item - center) for item in values)
            # The spread is at least 5 %: in a family of near-equals a small difference is no outlier.
            limit = OUTLIER_DEVIATIONS * max(spread, 0.05)
            names += [
                layer.label for layer, item in zip(members, values, strict=True) if abs(item - center) > limit
            ]
    yield from _many(
        "family-outlier",
        "info",
        list(dict.fromkeys(names)),
        "differ strongly from their family in norm or stable rank",
        "look at them in --layers",
        total=len(facts.layers),
    )


def _coarse_storage(facts: Facts) -> Iterator[Finding]:
    coarse = sorted({layer.dtype for layer in facts.layers if layer.dtype.startswith("F8")})
    if coarse:
        yield Finding(
            code="coarse-storage",
            severity="info",
            message=f"stored as {', '.join(coarse)}: rounding alone moves the stable rank by about 0.2 %",
            hint="two or three digits of the figures mean something",
        )


RULES: tuple[Rule, ...] = (
    _nonfinite,
    _cancellation,
    _initialisation,
    _variant,
    _untrained,
    _random,
    _unaudited,
    _declared_ranks,
    _no_config,
    _dora,
    _targets,
    _saved_parts,
    _ghosts,
    _shape_ceiling,
    _saturated,
    _norms,
    _outliers,
    _coarse_storage,
)
