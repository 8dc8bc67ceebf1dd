"""Findings about an adapter: rules over measured rows and the config. Pure.

One finding per code and cause, with a count: an adapter of 224 modules must not print 224 lines. A new rule is a
function under `@finding`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from gradience.adapters.adapter import DORA_REASON, SCALE_HINT, Adapter
from gradience.adapters.config import AS_PLAIN_LORA, Initialization, PatternTable, initialization_of
from gradience.adapters.keys import parse_key, path_ends
from gradience.adapters.peft import SAY_ORDER
from gradience.reports.audit import LayerAudit
from gradience.reports.base.report import SEVERITIES, Finding, Severity
from gradience.words import counted, listed, noun


class AdapterFacts(NamedTuple):
    """Facts about an adapter that the rules for findings use."""

    layers: Sequence[LayerAudit]
    adapter: Adapter
    nonfinite: Sequence[str] = ()
    """One sentence per factor with NaN or infinity."""


class Said(NamedTuple):
    """The message of a finding, and the module it begins with."""

    message: str
    module: str | None = None


FindingRule = Callable[[AdapterFacts], Iterator[Finding]]
RULES: list[FindingRule] = []
"""All rules, in the order of the report among findings of one severity. `@finding` adds to them."""
MEANING = frozenset((
    "init-unknown", "init-not-update", "init-noise", "variant-not-update", "activated-lora", "expert-order",
    "expert-order-unknown",
))  # fmt: skip
"""Codes of the findings on what B·A is: they need no measured rows."""


def finding(
    code: str, severity: Severity, hint: str = ""
) -> Callable[[Callable[[AdapterFacts], Iterable[Said]]], FindingRule]:
    """Make a rule of the function below it, which returns what there is to say."""

    def rule_of(look: Callable[[AdapterFacts], Iterable[Said]]) -> FindingRule:
        def rule(facts: AdapterFacts) -> Iterator[Finding]:
            for said in look(facts):
                yield Finding(
                    code=code, severity=severity, module=said.module, message=said.message, hint=hint
                )

        RULES.append(rule)
        return rule

    return rule_of


VERBS = (
    {"has": "has", "is_": "is", "was": "was", "needs": "needs", "its": "its"},
    {"has": "have", "is_": "are", "was": "were", "needs": "need", "its": "their"},
)
"""Verbs and pronouns: singular, plural."""


def many(names: Sequence[str], predicate: str, total: int | None = None) -> list[Said]:
    """Return one sentence about all modules in `names`, if there are any.

    predicate: with verbs as in `VERBS`, after `3 modules`, or `3 of 64 modules` if the `total` is given.
    """
    if not names:
        return []
    head = counted(len(names), "module") if total is None else f"{len(names)} of {counted(total, 'module')}"
    return [Said(f"{head} {predicate.format_map(VERBS[len(names) > 1])}: {listed(names)}", names[0])]


def labels(facts: AdapterFacts, applies: Callable[[LayerAudit], bool]) -> list[str]:
    """Return the modules to which a test applies."""
    return [layer.label for layer in facts.layers if applies(layer)]


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


@finding(
    "non-finite", "error", "use an earlier checkpoint: the training diverged, or the save overflowed fp16"
)
def nonfinite(facts: AdapterFacts) -> Iterator[Said]:
    if facts.nonfinite:
        first, *others = facts.nonfinite
        yield Said(first + (f" (and {counted(len(others), 'more factor')})" if others else ""))


@finding(
    "canceled",
    "error",
    "the update of such a module is too small to measure (two opposite adapters, concatenated?)",
)
def canceled(facts: AdapterFacts) -> Iterable[Said]:
    predicate = "cannot be measured: A and B cancel, and what is left of B·A is below their rounding"
    return many(labels(facts, lambda row: row.status == "unsupported"), predicate, len(facts.layers))


@finding("imprecise", "warning", "--json lists error_bound and eta of each module")
def imprecise(facts: AdapterFacts) -> Iterable[Said]:
    """Factors that nearly cancel: ‖A‖·‖B‖ is so much larger than ‖BA‖ that their rounding shows."""
    coarse = [row for row in facts.layers if COARSE_BOUND < (row.error_bound or 0.0) < 1]
    worst = max((row.error_bound or 0.0 for row in coarse), default=0.0)
    predicate = f"{{is_}} accurate only to about {100 * worst:.2g} %, because A and B nearly cancel"
    return many([row.label for row in coarse], predicate, len(facts.layers))


def _start(facts: AdapterFacts) -> tuple[str, Initialization | None]:
    init = facts.adapter.config.init.lower() if facts.adapter.config else "true"
    return init, initialization_of(init)


@finding("init-unknown", "warning", "look up what this init_lora_weights does before using a suggestion")
def unknown_start(facts: AdapterFacts) -> Iterator[Said]:
    init, start = _start(facts)
    if start is None:
        yield Said(
            f"unknown initialization {init[:60]!r}: unless it starts from B·A = 0, this is not the update"
        )


@finding("init-not-update", "error", f"so no rank is suggested; {AS_PLAIN_LORA}")
def start_in_the_base(facts: AdapterFacts) -> Iterator[Said]:
    init, start = _start(facts)
    if start is not None and not start.keeps_base:
        yield Said(
            f"initialized with {init}: the base weights were changed at the start and B·A contains that change. "
            "These are spectra of B·A, not of what training learned"
        )


@finding(
    "init-noise",
    "error",
    "this inflates energy ranks, so none is suggested; the default init_lora_weights avoids it",
)
def noisy_start(facts: AdapterFacts) -> Iterator[Said]:
    init, start = _start(facts)
    if start is not None and start.keeps_base and not start.zero:
        rounding = "factors whose product is 0 to rounding alone (orthogonal): B·A held that rounding before training"
        random = "random non-zero factors (init_lora_weights=False): B·A was full-rank noise before training"
        yield Said(f"initialized with {rounding if init == 'orthogonal' else random}")


VARIANTS = {
    "use_qalora": "QA-LoRA (inputs are pooled before A)",
    "use_bdlora": "BD-LoRA (block-diagonal factors)",
    "kasa_config": "KaSA (a diagonal between the factors, and a truncated base)",
}
"""Field of a config -> what its method does, if it is set."""


@finding(
    "variant-not-update",
    "error",
    "the spectra are those of B·A, so no rank is suggested; evaluate a smaller rank on the task",
)
def variant(facts: AdapterFacts) -> Iterator[Said]:
    for name, method in VARIANTS.items():
        if facts.adapter.config and facts.adapter.config.fields.get(name):
            yield Said(f"{method}: the update is not s·B·A")


@finding("activated-lora", "info")
def activated(facts: AdapterFacts) -> Iterator[Said]:
    if facts.adapter.config and facts.adapter.config.fields.get("alora_invocation_tokens"):
        yield Said("activated LoRA: the update acts only after its invocation tokens")


@finding("expert-order", "info", "`gradience convert` writes them in PEFT's order")
def expert_order(facts: AdapterFacts) -> Iterable[Said]:
    predicate = (
        "{has} the columns of lora_B grouped by expert, as the config says (lora_B_layout); PEFT 0.21 reads "
        "them in another order"
    )
    return many(facts.adapter.packed("grouped_by_expert"), predicate)


@finding("expert-order-unknown", "warning", SAY_ORDER)
def unknown_expert_order(facts: AdapterFacts) -> Iterable[Said]:
    predicate = (
        "of stacked experts {was} saved by Unsloth without lora_B_layout and read in PEFT's order. Before release "
        "2026.9.6, unsloth_zoo grouped the columns of lora_B by expert: if so, the figures of these modules are wrong"
    )
    return many(facts.adapter.packed(None), predicate)


def _untrained(facts: AdapterFacts) -> list[str]:
    return labels(facts, lambda row: row.status == "untrained")


@finding("untrained", "error", "if it was trained, the trained weights were not saved")
def untrained(facts: AdapterFacts) -> Iterator[Said]:
    if facts.layers and len(_untrained(facts)) == len(facts.layers):
        all_ = "the only module is" if len(facts.layers) == 1 else f"all {len(facts.layers)} modules are"
        yield Said(f"{all_} untrained: B·A = 0 exactly")


@finding(
    "dead-modules",
    "warning",
    "the smallest rank is suggested there; check that gradients flow (frozen or unused modules)",
)
def dead_modules(facts: AdapterFacts) -> Iterable[Said]:
    names = _untrained(facts)
    some = len(names) < len(facts.layers)
    return many(names if some else [], "{was} never trained (B·A = 0)", len(facts.layers))


def _random(facts: AdapterFacts) -> tuple[list[str], bool]:
    """Modules that look random, and whether no other module looks trained."""
    able = [
        row
        for row in facts.layers
        if row.null_position is not None
        and row.r >= RANDOM_MIN_RANK
        and min(row.shape) >= RANDOM_MIN_SIDE * row.r
    ]
    names = [row.label for row in able if (row.null_position or 0.0) >= RANDOM_POSITION]
    trained = sum(row.status == "ok" for row in facts.layers)
    return names, bool(names) and len(names) == len(able) and 2 * len(able) >= trained


@finding("looks-random", "error", "the adapter is synthetic or hardly trained, so no rank is suggested")
def looks_random(facts: AdapterFacts) -> Iterator[Said]:
    names, whole = _random(facts)
    if whole:
        trained = sum(row.status == "ok" for row in facts.layers)
        modules = "the only module" if trained == 1 else f"{len(names)} of {trained} modules"
        has = "has" if len(names) == 1 else "have"
        yield Said(f"{modules} {has} a spectrum like that of random factors, and no module looks trained")


@finding(
    "random-modules",
    "warning",
    "hardly trained, or trained to use every direction: compare with similar modules",
)
def random_modules(facts: AdapterFacts) -> Iterable[Said]:
    names, whole = _random(facts)
    predicate = "{has} a spectrum like that of random factors"
    return many([] if whole else names, predicate, len(facts.layers))


@finding("unaudited", "error", "excluded from all figures below; the reason says what is wrong with the file")
def unaudited(facts: AdapterFacts) -> Iterator[Said]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for note in facts.adapter.unaudited:
        by_reason[note.reason].append(note.tensor)
    for reason, tensors in by_reason.items():
        message = f"{counted(len(tensors), 'tensor')} not audited: {reason}: {listed(tensors, 2)}"
        yield Said(message, tensors[0])


@finding(
    "rank-disagrees",
    "error",
    "correct r or rank_pattern: PEFT will not load this; the audit takes the tensors' ranks (also in s = α/r)",
)
def declared_ranks(facts: AdapterFacts) -> Iterable[Said]:
    wrong = [row for row in facts.layers if row.declared_r not in (None, row.r) and row.expert is None]
    ranks = f"tensors {wrong[0].r}, config {wrong[0].declared_r}" if wrong else ""
    return many([row.name for row in wrong], f"{{has}} a different rank than the config says ({ranks})")


@finding("no-config", "warning", "put the adapter_config.json beside the weights")
def no_config(facts: AdapterFacts) -> Iterator[Said]:
    if facts.adapter.config is None:
        yield Said("no adapter_config.json: α, norms, initialization and variant are unknown")


@finding("unclear-scale", "warning", SCALE_HINT)
def unclear_scale(facts: AdapterFacts) -> Iterator[Said]:
    if facts.adapter.config is not None and facts.adapter.no_scale:
        yield Said(f"{facts.adapter.no_scale}: there are no norms, and nothing is converted or compressed")


@finding("zero-scale", "error", "set lora_alpha")
def zero_scale(facts: AdapterFacts) -> Iterator[Said]:
    if any(layer.scale == 0 for layer in facts.layers):
        yield Said("α is 0 for some modules: their update is multiplied by 0 and does nothing")


@finding(
    "not-applied",
    "error",
    "`gradience compress` writes PEFT's own names, at the same ranks too (--rank R --encoding patterns)",
)
def names(facts: AdapterFacts) -> Iterator[Said]:
    if misnamed := facts.adapter.misnamed():
        yield Said(
            f"{counted(len(misnamed), 'tensor')} with names that PEFT does not write: {listed(misnamed, 1)}. "
            "PeftModel.from_pretrained (0.21) refuses such an adapter, or ignores the tensors and answers as the "
            "base does"
        )


@finding(
    "saved-and-adapted",
    "warning",
    "remove them from modules_to_save or from target_modules: PEFT 0.21 does not load both",
)
def saved_and_adapted(facts: AdapterFacts) -> Iterable[Said]:
    saved = [
        row.name
        for row in facts.layers
        if facts.adapter.config and facts.adapter.config.saved_whole(row.name)
    ]
    predicate = "{has} LoRA factors and {is_} also in modules_to_save (which matches the end of a name)"
    return many(list(dict.fromkeys(saved)), predicate)


def _magnitudes(facts: AdapterFacts) -> int:
    return sum(note.reason == DORA_REASON for note in facts.adapter.other)


@finding(
    "dora",
    "warning",
    "evaluate a smaller rank on the task; compressing DoRA needs the base weights (--base-model)",
)
def dora(facts: AdapterFacts) -> Iterator[Said]:
    if magnitudes := _magnitudes(facts):
        yield Said(
            f"DoRA: {counted(magnitudes, 'magnitude vector')} beside the factors. ΔW is not s·B·A alone; "
            "the audit covers the low-rank part of the direction"
        )


@finding(
    "config-disagrees",
    "error",
    "save it again: the file and the config do not belong together, or the save is incomplete",
)
def undeclared_dora(facts: AdapterFacts) -> Iterator[Said]:
    if facts.adapter.config and facts.adapter.config.use_dora != bool(_magnitudes(facts)):
        held = "no magnitude vectors" if facts.adapter.config.use_dora else "magnitude vectors"
        yield Said(
            f"the config says use_dora={str(facts.adapter.config.use_dora).lower()}, the file contains {held}"
        )


@finding(
    "target-unmatched",
    "warning",
    "check target_modules for a typo: a name that matches no module trains nothing",
)
def targets(facts: AdapterFacts) -> Iterator[Said]:
    if facts.adapter.config is None:
        return
    unaudited = (parse_key(note.tensor).module for note in facts.adapter.unaudited)
    ends = {end for name in (*(row.name for row in facts.layers), *unaudited) for end in path_ends(name)}
    modules = (
        facts.adapter.config.target_modules if isinstance(facts.adapter.config.target_modules, tuple) else ()
    )
    missing = [target for target in (*modules, *facts.adapter.config.target_parameters) if target not in ends]
    if missing and modules != ("all-linear",):
        yield Said(
            f"{noun(len(missing), 'target')} without a matching module in the file: {listed(missing, 6)}"
        )


def _patterns(facts: AdapterFacts) -> Iterator[tuple[str, PatternTable]]:
    if facts.adapter.config:
        yield "rank_pattern", facts.adapter.config.rank_pattern
        yield "alpha_pattern", facts.adapter.config.alpha_pattern


@finding("pattern-skipped", "error", "write the key as the module's name, with dots escaped")
def skipped_patterns(facts: AdapterFacts) -> Iterator[Said]:
    for label, table in _patterns(facts):
        for key, reason in table.skipped.items():
            yield Said(f"{label} key {key[:80]!r} was not applied ({reason}): rank or scale may be wrong")


@finding("pattern-unmatched", "warning", "PEFT ignores them; a key must match the end of a module's name")
def unmatched_patterns(facts: AdapterFacts) -> Iterator[Said]:
    for label, table in _patterns(facts):
        if keys := [key[:80] for key in table.unmatched]:
            yield Said(f"{label} {noun(len(keys), 'key')} without a matching module: {listed(keys)}")


@finding("rank-above-shape", "warning", "the surplus does nothing: lower the rank there (rank_pattern)")
def shape_ceiling(facts: AdapterFacts) -> Iterable[Said]:
    predicate = "{has} a rank above what the shape can use (min(m, n))"
    return many(labels(facts, lambda row: row.r > min(row.shape)), predicate)


def _uses_all(row: LayerAudit) -> bool:
    return (
        row.energy_rank_90 is not None
        and row.r >= 2
        and row.energy_rank_90 >= NEARLY_ALL * row.r
        and (row.null_position is None or row.null_position < RANDOM_POSITION)
    )


@finding("saturated", "warning", "truncation loses most here")
def saturated(facts: AdapterFacts) -> Iterable[Said]:
    share = f"{100 * NEARLY_ALL:g} %"
    predicate = f"{{needs}} at least {share} of {{its}} directions for 90 % of {{its}} energy"
    return many(labels(facts, _uses_all), predicate, len(facts.layers))


@finding(
    "diverged-norm",
    "warning",
    "larger than a weight matrix itself: the training may have diverged; check its loss (gradience monitor run.jsonl)",
)
def diverged(facts: AdapterFacts) -> Iterable[Said]:
    names = labels(facts, lambda row: (row.fro_norm or 0.0) >= DIVERGED_NORM)
    return many(names, f"{{has}} ‖ΔW‖_F above {DIVERGED_NORM:g}")


@finding("coarse-storage", "info", "audit the adapter before the conversion: these types lose small entries")
def coarse_storage(facts: AdapterFacts) -> Iterator[Said]:
    rows = [row for row in facts.layers if row.dtype.startswith("F8")]
    if rows:
        types = ", ".join(sorted({row.dtype for row in rows}))
        worst = max(row.storage_error or 0.0 for row in rows)
        yield Said(f"stored as {types}: rounding alone may move the stable rank by up to {worst:.1%}")


def find(facts: AdapterFacts) -> tuple[Finding, ...]:
    """All findings, the gravest first."""
    findings = [finding for rule in RULES for finding in rule(facts)]
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
