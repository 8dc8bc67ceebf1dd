"""An adapter's files against the reports about it: digests, ranks, parameters and types from its headers."""

import math
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.adapters.tensors import type_names
from gradience.bench.verify.findings import Findings, Link
from gradience.compare.module import compare_modules
from gradience.compress.carry import DISTILL_REPORT, REPORT
from gradience.distill.divergence import mean_kl, p_closer
from gradience.errors import InputError
from gradience.evaluate.adapters import AdapterInput
from gradience.ranks import max_lora_rank_step
from gradience.reports.compression import CompressionReport
from gradience.reports.distill import DistillReport
from gradience.reports.evaluation import BASE, EvaluatedAdapter

Facts = Iterable[Link]
WEIGHTS_MATCH = "{}: digest, ranks, parameters and types match the weights"


def open_source(place: Path, path: str, sha256: str) -> Adapter | None:
    """Open the adapter that a report names, if it is in the folder, beside it or here, with this digest."""
    for folder in (place / "candidates" / Path(path).name, place.parent / Path(path).name, Path(path)):
        try:
            adapter = open_adapter(folder)
            if adapter.sha256() == sha256:
                return adapter
            adapter.close()
        except InputError:
            continue
    return None


# ---------------------------------------------------------------- adapters that were evaluated


def check_evaluated(
    place: Path,
    row: EvaluatedAdapter,
    reference: EvaluatedAdapter,
    file: str,
    findings: Findings,
    folder: Path | None = None,
) -> None:
    """Compare the row of an evaluation with the adapter. folder: where it must be; by default where it is found."""
    if row.role == BASE or row.sha256 is None:
        return
    source = open_source(place, row.path, row.sha256) if folder is None and row.path else None
    if source is not None:
        folder = source.location.path
    if folder is None:
        findings.gap(
            f"ranks and parameters of {row.name}: its weights are not here (sha256 {row.sha256[:12]}…)"
        )
        return
    where = folder.relative_to(place).as_posix() if folder.is_relative_to(place) else folder.name
    with (
        findings.check("adapter", "L1", f"the row {row.name} matches the files in {where}/", where),
        source or open_adapter(folder) as opened,
    ):
        adapter = AdapterInput.of(row.name, folder, opened)
        smallest, largest = adapter.ranks or (None, None)
        whole = reference.lora_params
        facts = (
            ("sha256", row.sha256, adapter.identity.weights_sha256),
            ("config_sha256", row.config_sha256, adapter.identity.config_sha256),
            ("smallest_rank", row.smallest_rank, smallest),
            ("largest_rank", row.largest_rank, largest),
            ("lora_params", row.lora_params, adapter.lora_params),
            ("other_params", row.other_params, adapter.other_params),
            (
                "params_saved",
                row.params_saved,
                row.params_saved and whole and 1 - adapter.lora_params / whole,
            ),
        )
        findings.compare(((file, f"{row.name}.{field}", *values) for field, *values in facts))


# ---------------------------------------------------------------- adapters that were written


def check_compression(folder: Path, findings: Findings) -> CompressionReport | None:
    """Compare compression_report.json with the weights beside it; return the report, if there is one.

    If the reference adapter is found, the errors are measured again.
    """
    if not (folder / REPORT).is_file():
        return None
    report = CompressionReport.read(folder / REPORT)
    with ExitStack() as stack:
        with findings.check("weights", "L1", WEIGHTS_MATCH.format(REPORT)):
            after = stack.enter_context(open_adapter(folder))
            findings.compare(_compressed(report, after))
        before = open_source(folder, report.source_path, report.source_sha256)
        if before is None:
            findings.gap(
                f"the errors in {REPORT}: the original is not here (sha256 {report.source_sha256[:12]}…)"
            )
            return report
        stack.enter_context(before)
        stack.enter_context(
            findings.check("errors", "L1", f"{REPORT}: the errors of all modules, measured again")
        )
        now, rows = {pair.module: pair for pair in after.pairs}, {row.name: row for row in report.modules}
        for pair in before.pairs:
            error = compare_modules(pair, now.get(pair.module))[1].relative_difference
            row = rows.get(pair.module)
            if row is None:
                findings.mismatch(REPORT, f"{pair.module} is missing", "modules")
            elif not math.isclose(row.measured_error or 0.0, error or 0.0, rel_tol=1e-6, abs_tol=1e-8):
                problem = f"{row.measured_error} recorded, {error} measured"
                findings.mismatch(REPORT, problem, f"modules.{pair.module}.measured_error")
    return report


def _compressed(report: CompressionReport, adapter: Adapter) -> Facts:
    rows, pairs = report.modules, {pair.module: pair for pair in adapter.pairs}
    written = [row for row in rows if row.new_rank]
    old, new = sum(row.old_params for row in rows), sum(pair.params for pair in pairs.values())
    yield REPORT, "output_sha256", report.output_sha256, adapter.sha256()
    yield REPORT, "old_params", report.old_params, old
    yield REPORT, "new_params", report.new_params, new
    yield REPORT, "reduction", report.reduction, 1 - new / old if old else 0.0
    yield REPORT, "new_bytes", report.new_bytes, adapter.bytes
    yield REPORT, "dropped", [*report.dropped], [row.name for row in rows if not row.new_rank]
    largest = max((pair.rank for pair in pairs.values()), default=0)
    yield REPORT, "new_max_lora_rank", report.new_max_lora_rank, max_lora_rank_step(largest)
    yield REPORT, "modules", len(written), len(pairs)
    for row in written:
        pair = pairs.get(row.name)
        if pair is None:
            yield REPORT, f"modules.{row.name}", "recorded", "not in the file"
            continue
        at = f"modules.{row.name}"
        yield REPORT, f"{at}.stored_rank", row.stored_rank, pair.rank
        yield "adapter_config.json", row.name, pair.declared_rank or pair.rank, pair.rank
        yield REPORT, f"{at}.new_rank", row.new_rank <= row.stored_rank, True
        yield REPORT, f"{at}.new_params", row.new_params, pair.params
        yield REPORT, f"{at}.new_bytes", row.new_bytes, pair.bytes
        yield REPORT, f"{at}.dtype", row.dtype, type_names(pair.a.entry.dtype, pair.b.entry.dtype)
        scale = row.scale * report.strength
        yield REPORT, f"{at}.scale", scale, float(pair.scale or 0.0) * row.folded


def check_distillation(folder: Path, findings: Findings) -> None:
    """Compare distill_report.json with the weights beside it, and recompute its means from its rows."""
    if not (folder / DISTILL_REPORT).is_file():
        return
    report = DistillReport.read(folder / DISTILL_REPORT)
    with (
        findings.check("weights", "L1", WEIGHTS_MATCH.format(DISTILL_REPORT), DISTILL_REPORT),
        open_adapter(folder) as adapter,
    ):
        findings.compare(_distilled(report, adapter))
    with findings.check("held-out rows", "L1", f"{DISTILL_REPORT}: the means follow from these examples"):
        tokens = np.array([row.tokens for row in report.by_row], dtype=np.int64)
        before, after = (
            np.array([getattr(row, f"kl_per_example_{key}") for row in report.by_row])
            for key in ("before", "after")
        )
        best = min(report.checks, key=lambda check: (check.kl_per_token, check.step))
        p_value = p_closer(before, after, report.seed) if report.improved else None
        change = mean_kl(after - before, tokens, least=-math.inf)
        for field, recorded, again in (
            ("before", report.before, mean_kl(before, tokens)),
            ("after", report.after, mean_kl(after, tokens)),
            ("change", report.change, change),
        ):
            values = (
                (f"{field}.{key}", getattr(recorded, key), getattr(again, key))
                for key in ("kl_per_token", "low", "high")
            )
            findings.compare((DISTILL_REPORT, *value) for value in values)
        facts: tuple[tuple[str, Any, Any], ...] = (
            ("p_closer", report.p_closer, p_value),
            ("held_out_rows", report.held_out_rows, len(report.by_row)),
            ("scored_tokens", report.scored_tokens, int(tokens.sum())),
            ("best_step", report.best_step, best.step),
            ("improved", report.improved, best.step > 0),
        )
        findings.compare((DISTILL_REPORT, *fact) for fact in facts)


def _distilled(report: DistillReport, adapter: Adapter) -> Facts:
    yield DISTILL_REPORT, "output_sha256", report.output_sha256, adapter.sha256()
    yield DISTILL_REPORT, "trained_params", report.trained_params, adapter.lora_params
    if not report.improved:
        yield DISTILL_REPORT, "adapter_sha256", report.adapter_sha256, report.output_sha256
