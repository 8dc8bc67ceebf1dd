"""An adapter's files against the reports about it: digests, ranks, parameters and types from its headers."""

import math
import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

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


class KnownAdapters(ExitStack):
    """The adapters that a result names, as far as they are here. Each is opened once."""

    def __init__(self, place: Path) -> None:
        """place: folder of the result."""
        super().__init__()
        self.place = place
        self._opened: dict[Path, Adapter] = {}

    def at(self, folder: Path) -> Adapter:
        """Return the adapter in this folder. Raises what `open_adapter` raises."""
        if folder not in self._opened:
            self._opened[folder] = self.enter_context(open_adapter(folder))
        return self._opened[folder]

    def named(self, path: str, sha256: str) -> Adapter | None:
        """Return the adapter that a report names, if it is in the result, beside it or here, with this digest."""
        name = Path(path).name
        for folder in (self.place / "candidates" / name, self.place.parent / name, Path(path)):
            with suppress(InputError):
                if os.path.exists(folder) and self.at(folder).sha256() == sha256:  # else a name on the hub
                    return self.at(folder)
        return None


# ---------------------------------------------------------------- adapters that were evaluated


def check_evaluated(
    adapters: KnownAdapters,
    row: EvaluatedAdapter,
    reference: EvaluatedAdapter,
    file: str,
    findings: Findings,
    folder: Path | None = None,
) -> None:
    """Compare the row of an evaluation with the adapter. folder: where it must be; by default where it is found."""
    if row.role == BASE or row.sha256 is None:
        return
    if folder is None:
        opened = adapters.named(row.path, row.sha256) if row.path else None
        if opened is None:
            problem = f"its weights are not here (sha256 {row.sha256[:12]}…)"
            findings.gap(f"ranks and parameters of {row.name}: {problem}")
            return
        folder = opened.location.path
    place = adapters.place
    where = folder.relative_to(place).as_posix() if folder.is_relative_to(place) else folder.name
    with findings.check("adapter", "L1", f"the row {row.name} matches the files in {where}/", where):
        adapter = AdapterInput.of(row.name, folder, adapters.at(folder))
        smallest, largest = adapter.ranks or (None, None)
        whole = reference.lora_params
        again = {
            "sha256": adapter.identity.weights_sha256,
            "config_sha256": adapter.identity.config_sha256,
            "smallest_rank": smallest,
            "largest_rank": largest,
            "lora_params": adapter.lora_params,
            "other_params": adapter.other_params,
            "params_saved": row.params_saved and whole and 1 - adapter.lora_params / whole,
        }
        findings.compare((file, f"{row.name}.{field}", getattr(row, field), again[field]) for field in again)


# ---------------------------------------------------------------- adapters that were written


def check_compression(folder: Path, findings: Findings, adapters: KnownAdapters) -> CompressionReport | None:
    """Compare compression_report.json with the weights beside it; return the report, if there is one.

    If the reference adapter is found, the errors are measured again.
    """
    if not (folder / REPORT).is_file():
        return None
    report = CompressionReport.read(folder / REPORT)
    with findings.check("weights", "L1", WEIGHTS_MATCH.format(REPORT)):
        findings.compare(_compressed(report, adapters.at(folder)))
    before = adapters.named(report.source_path, report.source_sha256)
    if before is None:
        findings.gap(
            f"the errors in {REPORT}: the original is not here (sha256 {report.source_sha256[:12]}…)"
        )
        return report
    with findings.check("errors", "L1", f"{REPORT}: the errors of all modules, measured again"):
        now = {pair.module: pair for pair in adapters.at(folder).pairs}
        rows = {row.name: row for row in report.modules}
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


def check_distillation(folder: Path, findings: Findings, adapters: KnownAdapters) -> None:
    """Compare distill_report.json with the weights beside it, and recompute its means from its rows."""
    report = DistillReport.read(folder / DISTILL_REPORT)
    with findings.check("weights", "L1", WEIGHTS_MATCH.format(DISTILL_REPORT), DISTILL_REPORT):
        findings.compare(_distilled(report, adapters.at(folder)))
    with findings.check("held-out rows", "L1", f"{DISTILL_REPORT}: the means follow from these examples"):
        tokens = np.array([row.tokens for row in report.by_row], dtype=np.int64)
        before = np.array([row.kl_per_example_before for row in report.by_row])
        after = np.array([row.kl_per_example_after for row in report.by_row])
        best = min(report.checks, key=lambda check: (check.kl_per_token, check.step))
        again = {
            "before": mean_kl(before, tokens),
            "after": mean_kl(after, tokens),
            "change": mean_kl(after - before, tokens, least=-math.inf),
            "p_closer": p_closer(before, after, report.seed) if report.improved else None,
            "held_out_rows": len(report.by_row),
            "scored_tokens": int(tokens.sum()),
            "best_step": best.step,
            "improved": best.step > 0,
        }
        remade = report.model_copy(update=again).model_dump(include={*again})
        findings.compare_values(DISTILL_REPORT, report.model_dump(include={*again}), remade)


def _distilled(report: DistillReport, adapter: Adapter) -> Facts:
    yield DISTILL_REPORT, "output_sha256", report.output_sha256, adapter.sha256()
    yield DISTILL_REPORT, "trained_params", report.trained_params, adapter.lora_params
    if not report.improved:
        yield DISTILL_REPORT, "adapter_sha256", report.adapter_sha256, report.output_sha256
