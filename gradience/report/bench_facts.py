"""What the screen and the Markdown both say of a Bench run: tables of plain text, and sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from gradience.artifacts.bench import Bench, Best, Measures, Probe, Status, VariantResult
from gradience.artifacts.bench_aggregate import BenchAggregate, BestVariant, Spread, VariantSummary
from gradience.artifacts.bench_plan import DataSplit, Policy
from gradience.artifacts.exact import exact_text
from gradience.bench.arms.registry import control_of
from gradience.bench.verdict.sanity import as_expected
from gradience.report.numbers import MISSING, count, percent, plural, sig, size

AS_EXPECTED, NOT_AS_EXPECTED = "as expected", "not as expected"
COMPARED, INCOMPLETE = "for comparison", "seeds missing"
SMOKE_STATUS = "smoke, no evidence"
SMOKE = "SMOKE RUN: shortened to see that everything works. Its numbers are no evidence of anything."
PAIRED = "Δ is variant − probe on the same questions; lost: only the probe has them right, won: only the variant has."
LORA_ONLY = "Saved: share of the LoRA parameters. A head is in neither number."
NOISE = (
    "Counts have a noise floor: trainings that differ in the seed alone, and even one adapter written twice, differ "
    "in some answers. The control aa, and the range of the probe over seeds, say how much here."
)


class Table(NamedTuple):
    """Cells of plain text. align: `<` or `>` for each column."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str


# ---------------------------------------------------------------- numbers


def points(delta: float | None) -> str:
    """A difference of shares in percentage points, with its sign: −2.50."""
    if delta is None:
        return MISSING
    shown = f"{abs(100 * delta):.2f}"
    return shown if shown == "0.00" else f"{'−' if delta < 0 else '+'}{shown}"


def counted_points(delta: float | None, exact: str | None) -> str:
    """`−2.50 (−5/200)`: the counts tell what the rounded points cannot."""
    if delta is None or exact is None:
        return MISSING
    sign = "−" if exact.startswith("-") else "+" if delta else ""
    return f"{points(delta)} ({sign}{exact.removeprefix('-')})"


def spread_text(spread: Spread | None) -> str:
    """`28.5 % ± 1.5`; without ± for one seed."""
    if spread is None:
        return MISSING
    around = "" if spread.sd is None else f" ± {100 * spread.sd:.1f}"
    return f"{100 * spread.mean:.1f} %{around}"


def exact_percent(value: Fraction) -> str:
    """2.5 %, 67 %, 66.7 %."""
    return f"{exact_text(Fraction(round(value * 1000), 10))} %"


def saved(reduction: float | None) -> str:
    """0 % is a statement: the ranks are the probe's."""
    return MISSING if reduction is None else percent(reduction)


def of(correct: int | None, n: int | None) -> str:
    """`57 of 200`."""
    return MISSING if correct is None or n is None else f"{correct:,} of {n:,}"


# ---------------------------------------------------------------- sentences


def policy_sentence(policy: Policy) -> str:
    """The safety policy."""
    return (
        f"A seed passes when it loses at most {exact_percent(policy.tolerance)} of the questions, net. A variant "
        f"passes when at least {exact_percent(policy.pass_rate)} of the planned seeds pass and no seed loses more than "
        f"{exact_percent(policy.floor)}. A seed without a result has failed."
    )


def data_sentence(task: str, splits: Iterable[DataSplit], role: str) -> str:
    """`gsm8k: 7,473 to train, 1,319 to confirm`."""
    words = {"train": "trained", "dev": "asked (dev)", "confirm": "asked (confirm)"}
    parts = [f"{split.n:,} {words[split.role]}" for split in splits if split.role in ("train", role)]
    return f"{task}: {', '.join(parts)}"


def parameters_sentence(measures: Measures) -> str:
    """The LoRA's parameters, and the head's apart."""
    head = f"; head and other parameters, counted apart: {count(measures.other_params)}"
    return f"{count(measures.lora_params)} LoRA parameters{head if measures.other_params else ''}"


def probe_sentence(probe: Probe) -> str:
    """Rank, score, gate, size."""
    gate = (
        f"its gate of {exact_percent(probe.gate.min_value)} is {'' if probe.gate.passed else 'not '}reached"
    )
    score = f"{of(probe.correct, probe.n)} right ({percent(probe.score)})"
    return f"rank {probe.rank}: {score}; {gate}; {parameters_sentence(probe)}, {size(probe.bytes)} on disk"


def trouble_sentences(measures: Measures) -> list[str]:
    """What happened to answers, where anything did."""
    found = [
        (measures.failed_extractions, "without an answer in it, counted as wrong", "output"),
        (measures.cut_off, "cut off at the longest allowed length", "output"),
        (measures.truncated, "too long and cut", "question"),
    ]
    return [f"{plural(number, noun)} {what}" for number, what, noun in found if number]


def audit_sentence(bench: Bench) -> str:
    """What the audit of the probe says, evidence before rounding first."""
    audit = bench.audit
    if audit is None:
        reached = bench.probe is None or bench.probe.gate.passed
        return "none" if reached else "none: nothing is suggested from a probe that did not reach its gate"
    return (
        f"directions for 90 % of the energy: median {sig(audit.energy_rank_90_p50)}, 90th percentile "
        f"{sig(audit.energy_rank_90_p90)}; suggested ranks {audit.suggested_r_global_median} and "
        f"{audit.suggested_r_global_90}; mean stable rank {sig(audit.stable_rank_mean)}, "
        f"mean utilization {percent(audit.utilization_mean)}"
    )


def certifiable_sentence(report: BenchAggregate) -> str:
    """`yes`, or `no` with every condition that is not met; nothing where it was not looked at."""
    if report.certifiable is None:
        return ""
    if report.certifiable.met:
        seeds = plural(len(report.planned_seeds), "seed")
        return f"yes: the protocol was followed, {seeds}, the full confirm split, controls as expected"
    unmet = [condition for condition in report.certifiable.conditions if not condition.met]
    return f"no ({'; '.join(f'{condition.name}: {condition.why}' for condition in unmet)})"


def probe_line(report: BenchAggregate) -> str:
    """`28.5 % ± 1.5 over 3 seeds (27.0 to 30.0 %), rank 64`."""
    if report.probe is None:
        return "no seed has a probe"
    spread = report.probe
    rank = f"rank {report.probe_rank}, " if report.probe_rank is not None else ""
    return (
        f"{rank}{spread_text(spread)} over {plural(spread.seeds, 'seed')} "
        f"(range {100 * spread.low:.1f} to {100 * spread.high:.1f} %)"
    )


def best_sentence(status: Status, best: Best | BestVariant | None) -> str:
    """The result in one sentence."""
    if best is not None:
        reduction = best.reduction if isinstance(best, Best) else best.mean_reduction
        return f"Smallest that passes: {best.name}, with {percent(reduction)} fewer LoRA parameters."
    if status in ("UNDERTRAINED", "SKIPPED"):
        return "Nothing was compared, so nothing is concluded."
    if status == "INCONCLUSIVE":
        return "Nothing can be concluded."
    return "No smaller adapter passes."


def head_reasons(report: BenchAggregate) -> tuple[str, ...]:
    """The reasons that concern the whole run, and no variant of it: an error, a control that should have failed."""
    of_variants = any(variant.status == report.status for variant in report.variants)
    if report.status == "ERROR" or (report.status == "INCONCLUSIVE" and not of_variants):
        return report.reasons
    return ()


def why_lines(
    variants: Iterable[VariantResult | VariantSummary], said: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """(names, reasons) of all variants that do not simply pass; without reasons that are `said` already."""
    grouped: dict[str, list[str]] = {}
    for variant in variants:
        plain = variant.status == "PASS" and getattr(variant, "same_as", None) is None
        reasons = [reason for reason in variant.reasons if reason not in said]
        if reasons and not plain:
            grouped.setdefault("; ".join(reasons), []).append(variant.name)
    return [(", ".join(names), reasons) for reasons, names in grouped.items()]


def control_word(result: VariantResult | VariantSummary) -> str:
    """What a control is for."""
    control = control_of(result.name)
    return control.formerly.get(result.made_by, control.words) if control else ""


def shown_status(result: VariantResult | VariantSummary) -> str:
    """The status; of a control whether it is what it must be, since a PASS of one is no claim."""
    if not result.is_control or result.status not in ("PASS", "FAIL"):
        return result.status
    if isinstance(result, VariantSummary) and not result.complete:
        return INCOMPLETE
    expected = as_expected(result.name, result.status)
    return COMPARED if expected is None else AS_EXPECTED if expected else NOT_AS_EXPECTED


# ---------------------------------------------------------------- tables


def seed_table(results: Sequence[VariantResult]) -> Table:
    """The variants of one seed."""
    with_kl = any(result.closeness for result in results)
    head = ["", "status", "ranks", "right", "lost", "won", "Δ, points", *(["KL"] if with_kl else []), "saved"]
    rows = [
        [
            result.name,
            shown_status(result),
            _ranks(result),
            of(result.measures.correct, result.measures.n) if result.measures else MISSING,
            f"{result.pairs.only_probe_right:,}" if result.pairs else MISSING,
            f"{result.pairs.only_variant_right:,}" if result.pairs else MISSING,
            points(result.delta),
            *([_kl(result)] if with_kl else []),
            saved(result.reduction),
        ]
        for result in results
    ]
    return Table(head, rows, "<<" + ">" * (len(head) - 2))


def _kl(result: VariantResult) -> str:
    """KL is never below 0; rounding was, in older runs."""
    return sig(max(0.0, result.closeness.kl_mean)) if result.closeness else MISSING


def _ranks(result: VariantResult) -> str:
    if result.ranks is None:
        return MISSING
    low, high = result.ranks.smallest, result.ranks.largest
    return f"{low}" if low == high else f"{low}–{high}"


def aggregate_table(variants: Sequence[VariantSummary]) -> Table:
    """The published table."""
    rows = [
        [
            variant.name,
            shown_status(variant),
            MISSING if variant.status == "SKIPPED" else variant.pass_rate,
            counted_points(variant.worst_delta, variant.worst_delta_exact),
            _accuracy(variant),
            saved(variant.mean_reduction),
        ]
        for variant in variants
    ]
    return Table(["", "status", "pass rate", "worst Δ, points", "mean accuracy", "saved"], rows, "<<>>>>")


def _accuracy(variant: VariantSummary) -> str:
    if variant.accuracy is None:
        return MISSING
    some = f" ({plural(variant.accuracy.seeds, 'seed')})" if variant.accuracy.seeds < variant.planned else ""
    return f"{100 * variant.accuracy.mean:.1f} %{some}"


def seeds_table(report: BenchAggregate) -> Table:
    """Every planned seed: the probe, and the difference of every variant in questions."""
    variants = report.candidates
    head = ["seed", "probe", *(variant.name for variant in variants)]
    rows = []
    for place, row in enumerate(report.seeds):
        cells = [variant.seeds[place] for variant in variants]
        rows.append(
            [
                str(row.seed),
                of(row.correct, row.n) if row.correct is not None else row.status,
                *(
                    points(cell.delta)
                    if cell.delta is not None
                    else cell.status
                    for cell in cells
                ),
            ]
        )  # fmt: skip
    return Table(head, rows, "<" + ">" * (len(head) - 1))


def summary_table(results: Sequence[Bench | BenchAggregate]) -> Table:
    """Runs of all sizes: model, parameters, task, compression, status."""
    head = ["model", "parameters", "task", "seeds", "probe", "compression", "status"]
    return Table(head, [_summary_row(found) for found in results], "<><<><<")


def _summary_row(found: Bench | BenchAggregate) -> list[str]:
    if isinstance(found, Bench):
        task, seeds = found.data.task, str(found.seed)
        score = MISSING if found.probe is None else percent(found.probe.score)
        status = SMOKE_STATUS if found.smoke else found.status
    else:
        task, seeds = found.task, ", ".join(map(str, found.planned_seeds))
        score, status = spread_text(found.probe), found.status
    return [
        found.model,
        MISSING if found.base_params is None else scale(found.base_params),
        task,
        seeds,
        score,
        _compression(found.best),
        status,
    ]


def _compression(best: Best | BestVariant | None) -> str:
    if best is None:
        return MISSING
    reduction = best.reduction if isinstance(best, Best) else best.mean_reduction
    return f"{best.name}: {percent(reduction)} saved"


def scale(params: int) -> str:
    """66.4 M, 7.2 G as people say it: 7.2 B."""
    return count(params).replace(" G", " B")
