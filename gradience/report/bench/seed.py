"""`bench.json` -> blocks: the probe, its audit, and every variant against it."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.bench.verdict.policy import exact_percent
from gradience.report.bench import evidence, sections
from gradience.report.bench.ladder import ladder_section
from gradience.report.bench.numbers import out_of, points
from gradience.report.bench.predictions import predictions
from gradience.report.bench.sections import Row
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Paragraph,
    Span,
    Table,
    items,
)
from gradience.reports.base.numbers import MISSING, count, number_range, percent, plural, sig, size, trimmed
from gradience.reports.bench import Bench, Probe, VariantResult
from gradience.statistics.table import PairedTable

SMOKE = "SMOKE RUN: shortened to see that everything works. Its numbers are no evidence of anything."
COLUMNS = (
    "Only probe: examples that only the probe has correct. Only variant: those that only the variant has correct. "
    "Δ: variant − probe, in percentage points. Saved: share of the LoRA parameters, classifier heads excluded. "
    "KL: distance from the probe's outputs, in nats."
)


def bench_blocks(bench: Bench, *, sources: bool = True) -> Document:
    """Return the sections. sources: the last one, with versions and digests."""
    data, probe = bench.data, bench.probe
    blocks = [
        *sections.title(bench, data.task, f"seed {bench.seed}"),
        *([Paragraph(Span(SMOKE, "warn"))] if bench.smoke else []),
        *([items(bench.reasons)] if bench.status != "PASS" else []),
        Heading("Probe"),
        Facts(
            [*sections.data(bench.base_params, data.splits, data.eval_role), *_probe(probe), *_audit(bench)]
        ),
        Heading("Variants", aside=f"on the same {count(probe.n)} examples as the probe" if probe else ""),
        _table(bench.candidates),
        *sections.legend(bench.candidates, COLUMNS),
        *evidence.grades(bench.candidates),
        *evidence.differences(bench.variants),
        *evidence.next_grades(bench.candidates),
        *predictions(bench.candidates, bench.model_type),
        *_ladder(bench),
        *sections.controls(bench.controls, _table(bench.controls)),
        *sections.reasons(bench.variants, bench.reasons),
        *sections.policy(bench.policy, bench.notes),
    ]
    return [*blocks, *sections.sources(bench, data.splits, _sources(bench))] if sources else blocks


def _probe(probe: Probe | None) -> list[Row]:
    """Rank, score and gate, size; what happened to its answers, where anything did."""
    if probe is None:
        return [("probe", "none")]
    gate = (
        f"{'passes' if probe.gate.passed else 'fails'} the {exact_percent(probe.gate.min_value)} quality gate"
    )
    if probe.gate.base_correct is not None:
        base = (
            "its base alone" if probe.gate.base == "without an adapter" else "the most frequent label alone"
        )
        gate += f"; {base} has {out_of(probe.gate.base_correct, probe.n)}"
    counts = [
        (probe.failed_extractions, "output", "without an answer (counted as wrong)"),
        (probe.cut_off, "output", "cut off (maximum length)"),
        (probe.truncated, "input", "truncated (too long)"),
    ]
    problems = "; ".join(f"{plural(number, noun)} {what}" for number, noun, what in counts if number)
    return [
        ("rank", str(probe.rank)),
        ("score", f"{out_of(probe.correct, probe.n)} correct ({percent(probe.score)}): {gate}"),
        *([("problems", problems)] if problems else []),
        ("LoRA parameters", count(probe.lora_params)),
        *sections.other_params(probe.other_params),
        ("size on disk", size(probe.bytes)),
    ]


def _audit(bench: Bench) -> list[Row]:
    """The audit of the probe, evidence before rounding first."""
    audit = bench.audit
    if audit is None:
        failed = bench.probe is not None and not bench.probe.gate.passed
        why = ": no rank is suggested from a probe that fails its quality gate" if failed else ""
        return [("audit", f"none{why}")]
    median, p90 = trimmed(audit.energy_rank_90_p50), trimmed(audit.energy_rank_90_p90)
    ranks = f"{audit.suggested_r_global_median} (median), {audit.suggested_r_global_90} (p90)"
    return [
        ("k@90", f"median {median}, p90 {p90} (directions for 90 % of the energy)"),
        ("suggested ranks", ranks),
        ("stable rank", f"mean {sig(audit.stable_rank_mean)}"),
        ("utilization", f"mean {percent(audit.utilization_mean)}"),
    ]


def _table(results: Sequence[VariantResult]) -> Table:
    graded, paired = evidence.is_graded(results), any(result.pairs for result in results)
    columns = [
        Column(),
        Column("status"),
        *([Column("grade")] if graded else []),
        Column("ranks", ">", drop=4),
        Column("correct", ">", drop=5),
        Column("only probe", ">", drop=3),
        Column("only variant", ">", drop=2),
        Column("Δ, points", ">"),
        *([Column("95 % interval", ">", drop=6)] if paired else []),
        Column("saved", ">"),
        *([Column("KL", ">", drop=1)] if any(result.divergence for result in results) else []),
    ]
    return Table(columns, [_row(result, graded, paired)[: len(columns)] for result in results])


def _ladder(bench: Bench) -> list[Block]:
    """The steps: tested where this seed is all that was planned, else their counts."""
    if bench.ladder is not None:
        return ladder_section(bench.ladder, bench.steps)
    title = Heading("Ladder: the probe truncated, from the largest down", aside="tested over all seeds")
    return [title, _table(bench.steps)] if bench.steps else []


def _row(result: VariantResult, graded: bool, paired: bool) -> list[Inline]:
    ranks, measures, pairs = result.ranks, result.measures, result.pairs
    return [
        Span(result.name, "name"),
        sections.status_of(result),
        *([evidence.letter(result)] if graded else []),
        number_range((ranks.smallest, ranks.largest)) if ranks else MISSING,
        f"{measures.correct:,}" if measures else MISSING,
        f"{pairs.n10:,}" if pairs else MISSING,
        f"{pairs.n01:,}" if pairs else MISSING,
        points(result.delta),
        *([_interval(result.pairs)] if paired else []),
        percent(result.reduction),
        # never below 0; rounding was, in older runs
        sig(max(0.0, result.divergence.kl_mean)) if result.divergence else MISSING,
    ]


def _interval(paired: PairedTable | None) -> str:
    return MISSING if paired is None else f"{points(paired.low)} … {points(paired.high)}"


def _sources(bench: Bench) -> list[str]:
    where = bench.environment
    versions = ", ".join(f"{name} {version}" for name, version in sorted(where.versions.items()))
    quantization = f", base in {where.quantization}" if where.quantization else ""
    by = (
        "" if where.engine == "transformers" else f"; answers by {where.engine}, KL and flips by transformers"
    )
    return [
        f"{where.device}, {where.dtype}{quantization}{by}; {versions}",
        f"config {bench.config_digest}, protocol {bench.protocol_digest}, plan {bench.plan_digest}",
        *([f"probe sha256 {bench.probe.adapter_sha256}"] if bench.probe else []),
    ]
