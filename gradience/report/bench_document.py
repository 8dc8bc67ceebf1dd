"""bench.json -> bench.md, bench_aggregate.json -> bench_aggregate.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.artifacts.bench import Bench, VariantResult
from gradience.artifacts.bench_aggregate import BenchAggregate, VariantSummary
from gradience.report.bench_facts import (
    LORA_ONLY,
    NOISE,
    PAIRED,
    SMOKE,
    Table,
    aggregate_table,
    audit_sentence,
    best_sentence,
    certifiable_sentence,
    control_word,
    data_sentence,
    head_reasons,
    policy_sentence,
    probe_line,
    probe_sentence,
    scale,
    seed_table,
    seeds_table,
    trouble_sentences,
    why_lines,
)
from gradience.report.markdown import escaped, markdown_table
from gradience.report.names import markdown_text


def bench_markdown(bench: Bench) -> str:
    """One seed."""
    variants, controls = bench.candidates, bench.controls
    probe = probe_sentence(bench.probe) if bench.probe else "none"
    trouble = "; ".join(trouble_sentences(bench.probe)) if bench.probe else ""
    parts = [
        f"# Bench: {markdown_text(bench.model)} on {markdown_text(bench.data.task)}, seed {bench.seed}",
        *([f"**{SMOKE}**"] if bench.smoke else []),
        f"**{bench.status}**. {markdown_text(best_sentence(bench.status, bench.best))}",
        *_paragraphs(bench.reasons if bench.status != "PASS" else ()),
        markdown_text(
            f"{data_sentence(bench.data.task, bench.data.splits, bench.data.eval_role)}. "
            f"Base model: {scale(bench.base_params) if bench.base_params else 'unknown'} parameters."
        ),
        f"**Probe**: {markdown_text(f'{probe}; {trouble}' if trouble else probe)}.",
        f"**Audit**: {markdown_text(audit_sentence(bench))}.",
        "## Variants",
        _table(seed_table(variants)),
        markdown_text(f"{PAIRED} {LORA_ONLY}"),
        *_why(variants, bench.reasons),
        *_controls(controls, seed_table(controls) if controls else None, bench.reasons),
        "## Policy",
        markdown_text(policy_sentence(bench.policy)),
        *_list([*bench.notes, NOISE]),
        "## What it rests on",
        *_list(_facts(bench)),
    ]
    return "\n\n".join(parts) + "\n"


def aggregate_markdown(report: BenchAggregate) -> str:
    """All seeds."""
    variants, controls = report.candidates, report.controls
    heads = {row.other_params for row in report.seeds if row.other_params}
    apart = f" Head and other parameters, counted apart: {max(heads):,}." if heads else ""
    seeds = ", ".join(map(str, report.planned_seeds))
    parts = [
        f"# Bench: {markdown_text(report.model)} on {markdown_text(report.task)}, seeds {seeds}",
        f"**{report.status}**. {markdown_text(best_sentence(report.status, report.best))}",
        *_paragraphs(head_reasons(report)),
        markdown_text(
            f"{data_sentence(report.task, report.splits, report.eval_role)}. Base model: "
            f"{scale(report.base_params) if report.base_params else 'unknown'} parameters."
        ),
        f"**Probe**: {markdown_text(probe_line(report) + '.' + apart)}",
        *([f"**Certifiable**: {markdown_text(certifiable_sentence(report))}."] if report.certifiable else []),
        "## Variants",
        _table(aggregate_table(variants)),
        markdown_text(f"{PAIRED} {LORA_ONLY}"),
        *_why(variants),
        *_controls(controls, aggregate_table(controls) if controls else None, ()),
        "## Seeds",
        _table(seeds_table(report)),
        "Variants: Δ in points.",
        "## Policy",
        markdown_text(policy_sentence(report.policy)),
        *_list([*report.notes, NOISE]),
        "## What it rests on",
        *_list(
            [
                *(f"seed {row.seed}: {row.source}" for row in report.seeds if row.source),
                f"protocol {report.protocol_digest}",
                f"base weights {report.base_fingerprint}",
                *(f"{split.role}: {split.n:,} examples, sha256 {split.sha256}" for split in report.splits),
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(bench: Bench) -> list[str]:
    where = bench.environment
    versions = ", ".join(f"{name} {version}" for name, version in sorted(where.versions.items()))
    quantization = f", base in {where.quantization}" if where.quantization else ""
    return [
        f"{where.device}, {where.dtype}{quantization}; {versions}",
        *(f"{split.role}: {split.n:,} examples, sha256 {split.sha256}" for split in bench.data.splits),
        f"base weights {bench.base_fingerprint}",
        f"config {bench.config_digest}, protocol {bench.protocol_digest}, plan {bench.plan_digest}",
        *([f"probe sha256 {bench.probe.adapter_sha256}"] if bench.probe else []),
    ]


def _controls(
    controls: Sequence[VariantResult | VariantSummary], table: Table | None, said: Sequence[str]
) -> list[str]:
    if table is None:
        return []
    words = {control.name.partition(".")[0]: control_word(control) for control in controls}
    return [
        "## Controls",
        "Controls are not candidates: they say whether the questions can tell a good adapter from a bad one.",
        _table(table),
        *_list(f"{name}: {word}" for name, word in words.items()),
        *_why(controls, said),
    ]


def _why(variants: Iterable[VariantResult | VariantSummary], said: Sequence[str] = ()) -> list[str]:
    return _list(f"{names}: {reasons}" for names, reasons in why_lines(variants, said))


def _table(table: Table) -> str:
    return markdown_table(escaped([table.head])[0], escaped(table.rows), table.align)


def _list(lines: Iterable[str]) -> list[str]:
    found = [f"- {markdown_text(line)}" for line in lines]
    return ["\n".join(found)] if found else []


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [markdown_text(text) for text in texts]
