"""Findings about an adapter: rules over measured rows and the config. Pure.

One finding per code and cause, with a count: an adapter of 224 modules must not print 224 lines. A new rule is a
function or a `ModuleRule`, and a line in `RULES`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from gradience.adapters.adapter import DORA_REASON, SCALE_HINT, Adapter
from gradience.adapters.config import AS_PLAIN_LORA, initialization_of
from gradience.adapters.keys import parse_key, path_ends
from gradience.adapters.peft import SAY_ORDER, guessed_orders
from gradience.reports.audit import LayerAudit
from gradience.reports.base.finding import SEVERITIES, Finding, Severity
from gradience.words import counted, listed, noun


class AdapterFacts(NamedTuple):
    """Facts about an adapter that the rules for findings use."""

    layers: Sequence[LayerAudit]
    adapter: Adapter
    nonfinite: Sequence[str] = ()
    """One sentence per factor with NaN or infinity."""


FindingRule = Callable[[AdapterFacts], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class ModuleRule:
    """A rule that looks at one module at a time: one finding for all modules to which it applies, with a count.

    message: predicate after `3 of 64 modules`, with verbs as in `VERBS`.   of_all: True if the total is shown.
    """

    code: str
    severity: Severity
    applies: Callable[[LayerAudit], bool]
    message: str
    hint: str
    of_all: bool = True

    def __call__(self, facts: AdapterFacts) -> Iterator[Finding]:
        names = [layer.label for layer in facts.layers if self.applies(layer)]
        total = len(facts.layers) if self.of_all else None
        return many(self.code, self.severity, names, self.message, self.hint, total)


VERBS = (
    {"has": "has", "is_": "is", "was": "was", "needs": "needs", "its": "its"},
    {"has": "have", "is_": "are", "was": "were", "needs": "need", "its": "their"},
)
"""Verbs and pronouns: singular, plural."""


def many(
    code: str, severity: Severity, names: Sequence[str], message: str, hint: str, total: int | None = None
) -> Iterator[Finding]:
    """Yield one finding for all modules in `names`, if there are any."""
    if names:
        head = (
            counted(len(names), "module") if total is None else f"{len(names)} of {counted(total, 'module')}"
        )
        yield Finding(
            code=code,
            severity=severity,
            module=names[0],
            message=f"{head} {message.format_map(VERBS[len(names) > 1])}: {listed(names)}",
            hint=hint,
        )


def no_config(facts: AdapterFacts) -> Iterator[Finding]:
    if facts.adapter.config is None:
        yield Finding(
            code="no-config",
            severity="warning",
            message="no adapter_config.json: α, norms, initialization and variant are unknown",
            hint="put the adapter_config.json beside the weights",
        )
    elif facts.adapter.no_scale:
        yield Finding(
            code="unclear-scale",
            severity="warning",
            message=f"{facts.adapter.no_scale}: there are no norms, and nothing is converted or compressed",
            hint=SCALE_HINT,
        )
    elif any(layer.scale == 0 for layer in facts.layers):
        yield Finding(
            code="zero-scale",
            severity="error",
            message="α is 0 for some modules: their update is multiplied by 0 and does nothing",
            hint="set lora_alpha",
        )


def declared_ranks(facts: AdapterFacts) -> Iterator[Finding]:
    wrong = [
        layer for layer in facts.layers if layer.declared_r not in (None, layer.r) and layer.expert is None
    ]
    if wrong:
        first = wrong[0]
        yield from many(
            "rank-disagrees",
            "error",
            [layer.name for layer in wrong],
            f"{{has}} a different rank than the config says (tensors {first.r}, config {first.declared_r})",
            "correct r or rank_pattern: PEFT will not load this; the audit takes the tensors' ranks (also in s = α/r)",
        )


def targets(facts: AdapterFacts) -> Iterator[Finding]:
    config = facts.adapter.config
    if config is None:
        return
    modules = {layer.name for layer in facts.layers} | {
        parse_key(note.tensor).module for note in facts.adapter.unaudited
    }
    targets = config.target_modules if isinstance(config.target_modules, tuple) else ()
    ends = {end for module in modules for end in path_ends(module)}
    missing = [target for target in (*targets, *config.target_parameters) if target not in ends]
    if missing and targets != ("all-linear",):
        yield Finding(
            code="target-unmatched",
            severity="warning",
            message=f"{noun(len(missing), 'target')} without a matching module in the file: {listed(missing, 6)}",
            hint="check target_modules for a typo: a name that matches no module trains nothing",
        )
    guessed = guessed_orders(config)
    if guessed:
        yield Finding(
            code="parameter-order",
            severity="warning",
            message=(
                f"several parameters of one module are targeted ({listed(guessed)}); the file does not say which "
                "tensor belongs to which: named in alphabetical order"
            ),
            hint="compare the shapes: rank_pattern and alpha_pattern may apply to the wrong parameter",
        )
    for label, table in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for key, reason in table.skipped.items():
            yield Finding(
                code="pattern-skipped",
                severity="error",
                message=f"{label} key {key[:80]!r} was not applied ({reason}): rank or scale may be wrong",
                hint="write the key as the module's name, with dots escaped",
            )
        if table.unmatched:
            keys = noun(len(table.unmatched), "key")
            yield Finding(
                code="pattern-unmatched",
                severity="warning",
                message=f"{label} {keys} without a matching module: {listed([key[:80] for key in table.unmatched])}",
                hint="PEFT ignores them; a key must match the end of a module's name",
            )


def names(facts: AdapterFacts) -> Iterator[Finding]:
    if misnamed := facts.adapter.misnamed():
        yield Finding(
            code="not-applied",
            severity="error",
            message=(
                f"{counted(len(misnamed), 'tensor')} with names that PEFT does not write: "
                f"{listed(misnamed, 1)}. PeftModel.from_pretrained (0.21) refuses such an adapter, or ignores "
                "the tensors and answers as the base does"
            ),
            hint="`gradience compress` writes PEFT's own names, at the same ranks too (--rank R --encoding patterns)",
        )


def saved_and_adapted(facts: AdapterFacts) -> Iterator[Finding]:
    config = facts.adapter.config
    saved = [layer.name for layer in facts.layers if config and config.saved_whole(layer.name)]
    yield from many(
        "saved-and-adapted",
        "warning",
        list(dict.fromkeys(saved)),
        "{has} LoRA factors and {is_} also in modules_to_save (which matches the end of a name)",
        "remove them from modules_to_save or from target_modules: PEFT 0.21 does not load both",
    )


def ghosts(facts: AdapterFacts) -> Iterator[Finding]:
    if ghosts := facts.adapter.ghosts:
        yield Finding(
            code="ghost-copies",
            severity="warning",
            message=(
                f"{counted(len(ghosts), 'tensor')} repeat a module under original_module or modules_to_save: "
                f"{listed(ghosts, 2)}"
            ),
            hint="`gradience convert` leaves them out; they are counted only once here",
        )


def unaudited(facts: AdapterFacts) -> Iterator[Finding]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for note in facts.adapter.unaudited:
        by_reason[note.reason].append(note.tensor)
    for reason, tensors in by_reason.items():
        yield Finding(
            code="unaudited",
            severity="error",
            module=tensors[0],
            message=f"{counted(len(tensors), 'tensor')} not audited: {reason}: {listed(tensors, 2)}",
            hint="excluded from all figures below; the reason says what is wrong with the file",
        )


def initialization(facts: AdapterFacts) -> Iterator[Finding]:
    init = facts.adapter.config.init.lower() if facts.adapter.config else "true"
    start = initialization_of(init)
    if start is None:
        yield Finding(
            code="init-unknown",
            severity="warning",
            message=f"unknown initialization {init[:60]!r}: unless it starts from B·A = 0, this is not the update",
            hint="look up what this init_lora_weights does before using a suggestion",
        )
    elif not start.keeps_base:
        yield Finding(
            code="init-not-update",
            severity="error",
            message=(
                f"initialized with {init}: the base weights were changed at the start and B·A contains that change. "
                "These are spectra of B·A, not of what training learned"
            ),
            hint=f"so no rank is suggested; {AS_PLAIN_LORA}",
        )
    elif not start.zero:
        rounding = "factors whose product is 0 to rounding alone (orthogonal): B·A held that rounding before training"
        random = "random non-zero factors (init_lora_weights=False): B·A was full-rank noise before training"
        yield Finding(
            code="init-noise",
            severity="error",
            message=f"initialized with {rounding if init == 'orthogonal' else random}",
            hint="this inflates energy ranks, so none is suggested; the default init_lora_weights avoids it",
        )


def variant(facts: AdapterFacts) -> Iterator[Finding]:
    fields = facts.adapter.config.fields if facts.adapter.config else {}
    for name, method in (
        ("use_qalora", "QA-LoRA (inputs are pooled before A)"),
        ("use_bdlora", "BD-LoRA (block-diagonal factors)"),
        ("kasa_config", "KaSA (a diagonal between the factors, and a truncated base)"),
    ):
        if fields.get(name):
            yield Finding(
                code="variant-not-update",
                severity="error",
                message=f"{method}: the update is not s·B·A",
                hint="the spectra are those of B·A, so no rank is suggested; evaluate a smaller rank on the task",
            )
    if fields.get("alora_invocation_tokens"):
        yield Finding(
            code="activated-lora",
            severity="info",
            message="activated LoRA: the update acts only after its invocation tokens",
        )


def expert_order(facts: AdapterFacts) -> Iterator[Finding]:
    yield from many(
        "expert-order",
        "info",
        facts.adapter.packed("grouped_by_expert"),
        "{has} the columns of lora_B grouped by expert, as the config says (lora_B_layout); PEFT 0.21 reads them in "
        "another order",
        "`gradience convert` writes them in PEFT's order",
    )
    yield from many(
        "expert-order-unknown",
        "warning",
        facts.adapter.packed(None),
        "of stacked experts {was} saved by Unsloth without lora_B_layout and read in PEFT's order. Before release "
        "2026.9.6, unsloth_zoo grouped the columns of lora_B by expert: if so, the figures of these modules are wrong",
        SAY_ORDER,
    )


def dora(facts: AdapterFacts) -> Iterator[Finding]:
    magnitudes = sum(note.reason == DORA_REASON for note in facts.adapter.other)
    declared = bool(facts.adapter.config and facts.adapter.config.use_dora)
    if magnitudes:
        yield Finding(
            code="dora",
            severity="warning",
            message=(
                f"DoRA: {counted(magnitudes, 'magnitude vector')} beside the factors. ΔW is not s·B·A alone; "
                "the audit covers the low-rank part of the direction"
            ),
            hint="evaluate a smaller rank on the task; compressing DoRA needs the base weights (--base-model)",
        )
    if facts.adapter.config and declared != bool(magnitudes):
        held = "no magnitude vectors" if declared else "magnitude vectors"
        yield Finding(
            code="config-disagrees",
            severity="error",
            message=f"the config says use_dora={str(declared).lower()}, the file contains {held}",
            hint="save it again: the file and the config do not belong together, or the save is incomplete",
        )


RANDOM_POSITION = 0.85
"""null_position above which factors look random. Published trained adapters: median 0.02 to 0.2."""
RANDOM_MIN_RANK = 4
"""Below this rank a trained and a random spectrum are indistinguishable."""
RANDOM_MIN_SIDE = 2
"""Nor can they if the smaller side of ΔW has fewer than this many times r rows: a head of six labels that was
trained well spreads over all of its few directions."""
NEARLY_ALL = 0.85
"""k@90 / r from which a module needs nearly all of its directions (random factors: 0.88 to 1)."""
COARSE_BOUND = 1e-3
"""error_bound from which a finding is reported: the printed digits are no longer exact."""
DIVERGED_NORM = 1e3
"""‖ΔW‖_F above this is larger than any weight matrix of a language model; published diverged runs had 1.9e4."""
OUTLIER_DEVIATIONS = 8.0
OUTLIER_MIN_FAMILY = 6


def nonfinite(facts: AdapterFacts) -> Iterator[Finding]:
    if facts.nonfinite:
        more = (
            f" (and {counted(len(facts.nonfinite) - 1, 'more factor')})" if len(facts.nonfinite) > 1 else ""
        )
        yield Finding(
            code="non-finite",
            severity="error",
            message=facts.nonfinite[0] + more,
            hint="use an earlier checkpoint: the training diverged, or the save overflowed fp16",
        )


canceled = ModuleRule(
    "canceled",
    "error",
    lambda layer: layer.status == "unsupported",
    "cannot be measured: A and B cancel, and what is left of B·A is below their rounding",
    "the update of such a module is too small to measure (two opposite adapters, concatenated?)",
)


def imprecise(facts: AdapterFacts) -> Iterator[Finding]:
    """Factors that nearly cancel: ‖A‖·‖B‖ is so much larger than ‖BA‖ that their rounding shows."""
    coarse = [layer for layer in facts.layers if COARSE_BOUND < (layer.error_bound or 0.0) < 1]
    worst = max((layer.error_bound or 0.0 for layer in coarse), default=0.0)
    yield from many(
        "imprecise",
        "warning",
        [layer.label for layer in coarse],
        f"{{is_}} accurate only to about {100 * worst:.2g} %, because A and B nearly cancel",
        "--json lists error_bound and eta of each module",
        total=len(facts.layers),
    )


def untrained(facts: AdapterFacts) -> Iterator[Finding]:
    names = [layer.label for layer in facts.layers if layer.status == "untrained"]
    if not names:
        return
    if len(names) == len(facts.layers):
        everything = "the only module is" if len(names) == 1 else f"all {len(names)} modules are"
        yield Finding(
            code="untrained",
            severity="error",
            message=f"{everything} untrained: B·A = 0 exactly",
            hint="if it was trained, the trained weights were not saved",
        )
    else:
        yield from many(
            "dead-modules",
            "warning",
            names,
            "{was} never trained (B·A = 0)",
            "the smallest rank is suggested there; check that gradients flow (frozen or unused modules)",
            total=len(facts.layers),
        )


def random(facts: AdapterFacts) -> Iterator[Finding]:
    able = [
        layer
        for layer in facts.layers
        if layer.null_position is not None
        and layer.r >= RANDOM_MIN_RANK
        and min(layer.shape) >= RANDOM_MIN_SIDE * layer.r
    ]
    names = [layer.label for layer in able if (layer.null_position or 0.0) >= RANDOM_POSITION]
    trained = sum(layer.status == "ok" for layer in facts.layers)
    if names and len(names) == len(able) and 2 * len(able) >= trained:
        who = "the only module" if len(names) == trained == 1 else f"{len(names)} of {trained} modules"
        has = "has" if len(names) == 1 else "have"
        yield Finding(
            code="looks-random",
            severity="error",
            message=f"{who} {has} a spectrum like that of random factors, and no module looks trained",
            hint="the adapter is synthetic or hardly trained, so no rank is suggested",
        )
    else:
        yield from many(
            "random-modules",
            "warning",
            names,
            "{has} a spectrum like that of random factors",
            "hardly trained, or trained to use every direction: compare with similar modules",
            total=len(facts.layers),
        )


def _uses_all(layer: LayerAudit) -> bool:
    return (
        layer.energy_rank_90 is not None
        and layer.r >= 2
        and layer.energy_rank_90 >= NEARLY_ALL * layer.r
        and (layer.null_position is None or layer.null_position < RANDOM_POSITION)
    )


saturated = ModuleRule(
    "saturated",
    "warning",
    _uses_all,
    f"{{needs}} at least {100 * NEARLY_ALL:g} % of {{its}} directions for 90 % of {{its}} energy",
    "truncation loses most here",
)

shape_ceiling = ModuleRule(
    "rank-above-shape",
    "warning",
    lambda layer: layer.r > min(layer.shape),
    "{has} a rank above what the shape can use (min(m, n))",
    "the surplus does nothing: lower the rank there (rank_pattern)",
    of_all=False,
)

diverged = ModuleRule(
    "diverged-norm",
    "warning",
    lambda layer: (layer.fro_norm or 0.0) >= DIVERGED_NORM,
    f"{{has}} ‖ΔW‖_F above {DIVERGED_NORM:g}",
    "larger than a weight matrix itself: the training may have diverged; check its loss (gradience monitor run.jsonl)",
    of_all=False,
)


def _families(layers: Sequence[LayerAudit]) -> dict[str, list[LayerAudit]]:
    families: dict[str, list[LayerAudit]] = defaultdict(list)
    for layer in layers:
        if layer.fro_norm:
            families[layer.family].append(layer)
    return families


def outliers(facts: AdapterFacts) -> Iterator[Finding]:
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
    yield from many(
        "family-outlier",
        "info",
        list(dict.fromkeys(names)),
        "{has} an outlying norm or stable rank",
        "--layers lists norm and stable rank of every module",
        total=len(facts.layers),
    )


def coarse_storage(facts: AdapterFacts) -> Iterator[Finding]:
    rows = [layer for layer in facts.layers if layer.dtype.startswith("F8")]
    coarse = sorted({layer.dtype for layer in rows})
    worst = max((layer.storage_error or 0.0 for layer in rows), default=0.0)
    if coarse:
        yield Finding(
            code="coarse-storage",
            severity="info",
            message=f"stored as {', '.join(coarse)}: rounding alone may move the stable rank by up to {worst:.1%}",
            hint="audit the adapter before the conversion: these types lose small entries",
        )


RULES: tuple[FindingRule, ...] = (
    nonfinite,
    canceled,
    imprecise,
    initialization,
    variant,
    expert_order,
    untrained,
    random,
    unaudited,
    declared_ranks,
    no_config,
    names,
    saved_and_adapted,
    dora,
    targets,
    ghosts,
    shape_ceiling,
    saturated,
    diverged,
    outliers,
    coarse_storage,
)


def find(facts: AdapterFacts) -> tuple[Finding, ...]:
    """All findings, the gravest first."""
    findings = [finding for rule in RULES for finding in rule(facts)]
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
