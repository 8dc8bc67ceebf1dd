"""What a compression came to: every module as written or dropped, the sums over them, and warnings. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.dtypes import type_names
from gradience.adapters.patterns import anchored_key
from gradience.compress.encodings import Target, uneven_experts
from gradience.compress.layout import Layout
from gradience.compress.module import CompressedModule, Job
from gradience.ranks import max_lora_rank_step
from gradience.reports.compression import CompressionPlan, ModulePlan, ModuleResult
from gradience.spectra import relative_error
from gradience.words import counted

ROUNDING_SHOWS = 0.01
"""Relative error from which a loss by rounding alone is worth a warning."""


def results_of(
    opened: Adapter, plan: CompressionPlan, layout: Layout, modules: Mapping[str, CompressedModule]
) -> dict[str, Any]:
    """Every module as written or dropped, in the order of the adapter, and the sums over them."""
    plans = {module.name: module for module in plan.modules}
    jobs = {job.pair.module: job for job in layout.jobs}
    rows = tuple(
        _row(plans[pair.module], pair, jobs.get(pair.module), modules.get(pair.module))
        for pair in opened.pairs
    )
    norms = {pair.module: plans[pair.module].norm or 0.0 for pair in layout.dropped}
    norms |= {name: module.norm for name, module in modules.items()}
    errors = {row.name: row.measured_error or 0.0 for row in rows}
    # Relative to the largest norm: squares of norms beyond 1e154 would overflow.
    peak = max(norms.values()) or 1.0
    total = math.fsum((norm / peak) ** 2 for norm in norms.values())
    lost = math.fsum((errors[name] * norm / peak) ** 2 for name, norm in norms.items())
    old_params, new_params = sum(row.old_params for row in rows), sum(row.new_params for row in rows)
    return {
        "modules": rows,
        "dropped": tuple(pair.module for pair in layout.dropped),
        "kept_energy": plan.kept_energy,
        "predicted_error": plan.predicted_error,
        "measured_error": relative_error(lost, total) or 0.0,
        "old_params": old_params,
        "new_params": new_params,
        "reduction": 1 - new_params / old_params,
        "old_max_lora_rank": plan.old_max_lora_rank,
        "new_max_lora_rank": max_lora_rank_step(max(row.stored_rank for row in rows)),
    }


def _row(plan: ModulePlan, pair: LoraPair, job: Job | None, module: CompressedModule | None) -> ModuleResult:
    """One module as it was written by `job`; without a job it was dropped."""
    row: dict[str, Any] = {
        "name": pair.module,
        "old_rank": pair.rank,
        "new_rank": plan.new_rank,
        "scale": pair.scale or 0.0,
        "kept_energy": plan.kept_energy,
        "predicted_error": plan.predicted_error,
        "old_params": pair.params,
        "old_bytes": pair.bytes,
    }
    if job is None or module is None:
        return ModuleResult(
            **row,
            stored_rank=0,
            folded=1.0,
            dtype=type_names(pair.a.entry.dtype, pair.b.entry.dtype),
            unchanged=False,
            measured_error=plan.predicted_error,
            new_params=0,
            new_bytes=0,
            method="dropped",
        )
    params_A, params_B = (math.prod(shape) for shape in job.shapes())
    return ModuleResult(
        **row,
        stored_rank=job.stored_rank,
        folded=job.fold,
        dtype=type_names(job.dtype_A, job.dtype_B),
        unchanged=job.unchanged,
        measured_error=module.error,
        output_error=module.output_error,
        new_params=params_A + params_B,
        new_bytes=round(params_A * job.dtype_A.itemsize + params_B * job.dtype_B.itemsize),
        method=module.method,
    )


def warnings_of(plan: CompressionPlan, layout: Layout, results: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader of the report should know."""
    kept = Counter(module.fixed for module in plan.modules if module.fixed)
    warnings = [
        f"{counted(count, 'module keeps its rank', 'modules keep their rank')}: {reason}"
        for reason, count in kept.items()
    ]
    keys = {**layout.encoded.fields["rank_pattern"], **layout.encoded.fields["alpha_pattern"]}
    if any(anchored_key(job.pair.module) in keys for job in layout.jobs if job.parameter):
        warnings.append(
            "PEFT 0.21 says that pattern keys of target_parameters match nothing, and applies them"
        )
    rounding = math.sqrt(max(0.0, results["measured_error"] ** 2 - results["predicted_error"] ** 2))
    targets = [Target(job.pair.module, job.stored_rank, job.written_scale) for job in layout.jobs]
    if uneven_experts(targets):
        warnings.append(
            "PEFT 0.21 with transformers 5 does not load experts of several ranks: --encoding padded does"
        )
    if not any(module.norm for module in plan.modules):
        warnings.append("untrained: B·A = 0, so the kept energy and the error say nothing")
    if rounding > max(results["predicted_error"], ROUNDING_SHOWS):
        warnings.append(
            f"rounding to the storage type costs more ({rounding:.2g}) than the smaller rank does: "
            "use a wider --dtype"
        )
    return tuple(warnings)
