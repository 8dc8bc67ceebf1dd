"""Plans, compression reports and comparisons made by hand: shapes of real models, errors that a formula gives."""

import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import audit_sample
from audit_sample import MISTRAL

from gradience import convert_adapter, ranks
from gradience.cli.demo import example_adapter
from gradience.reports.audit import TensorNote
from gradience.reports.base.report import HubSource
from gradience.reports.comparison import ComparisonReport, ModuleComparison
from gradience.reports.compression import (
    CompressionPlan,
    CompressionReport,
    ModulePlan,
    ModuleResult,
    RuntimeVerdict,
)
from gradience.reports.conversion import ConversionReport

RUN = audit_sample.RUN.model_copy(
    update={"command": "gradience compress ./my-adapter --rank 16 --output ./smaller", "seconds": 2.5}
)
OLD, NEW = "3f9a1c0de27b" + "0" * 52, "77aa00bb11cc" + "1" * 52


def kept(old: int, new: int, decay: float) -> float:
    """Energy that the first `new` of `old` components hold if σ_i = i^-decay."""
    energies = [i ** (-2 * decay) for i in range(1, old + 1)]
    return math.fsum(energies[:new]) / math.fsum(energies)


def figures(name: str, old: int, new: int, shape: tuple[int, int], decay: float | None) -> dict[str, Any]:
    """Fields of a module in both plans and reports; decay None: never trained."""
    held = None if decay is None else kept(old, new, decay)
    width = sum(shape)
    return {
        "name": name,
        "old_rank": old,
        "new_rank": new,
        "old_params": old * width,
        "new_params": new * width,
        "old_bytes": 2 * old * width,
        "new_bytes": 2 * new * width,
        "kept_energy": held,
        "predicted_error": None if held is None else math.sqrt(1 - held),
    }


def planned(
    name: str, old: int, new: int, shape: tuple[int, int], decay: float | None = 1.0, **more: Any
) -> ModulePlan:
    """One module of a plan."""
    facts = {**figures(name, old, new, shape, decay), "norm": 1.0, "scale": 2.0}
    return ModulePlan(**(facts | more))


def written(
    name: str,
    old: int,
    new: int,
    shape: tuple[int, int],
    decay: float | None = 1.0,
    *,
    stored: int | None = None,
    **more: Any,
) -> ModuleResult:
    """One module of a report; storing it costs a little more error than was predicted."""
    facts = figures(name, old, new, shape, decay)
    stored = new if stored is None else stored
    error = facts["predicted_error"]
    facts |= {
        "stored_rank": stored,
        "scale": 2.0,
        "folded": 1.0,
        "dtype": "BF16",
        "unchanged": old == new,
        "measured_error": None if error is None else error if old == new else math.hypot(error, 2e-3),
        "new_params": stored * sum(shape),
        "new_bytes": 2 * stored * sum(shape),
        "method": "dropped" if new == 0 else "copy" if old == new else "gram",
    }
    return ModuleResult(**(facts | more))


def totals(modules: Sequence[ModulePlan | ModuleResult]) -> dict[str, Any]:
    """Sums over the modules, each of the same norm."""
    held = [module.kept_energy for module in modules if module.kept_energy is not None]
    energy = math.fsum(held) / len(held) if held else 1.0
    old, new = sum(module.old_params for module in modules), sum(module.new_params for module in modules)
    return {
        "old_params": old,
        "new_params": new,
        "reduction": 1 - new / old,
        "kept_energy": energy,
        "predicted_error": math.sqrt(1 - energy),
        "old_max_lora_rank": ranks.max_lora_rank_step(max(module.old_rank for module in modules)),
    }


def plan(modules: Sequence[ModulePlan], **more: Any) -> CompressionPlan:
    """The plan over `modules`."""
    largest = max(module.new_rank for module in modules)
    facts = {
        **totals(modules),
        "adapter_path": "./my-adapter",
        "adapter_sha256": OLD,
        "criterion": "rank 16",
        "modules": tuple(modules),
        "old_bytes": sum(module.old_bytes for module in modules),
        "new_bytes": sum(module.new_bytes for module in modules),
        "max_rank": largest,
        "new_max_lora_rank": ranks.max_lora_rank_step(largest),
    }
    return CompressionPlan(**(facts | more))


def report(modules: Sequence[ModuleResult], **more: Any) -> CompressionReport:
    """The report over `modules`."""
    sums = totals(modules)
    facts = {
        **sums,
        "source_path": "./my-adapter",
        "source_sha256": OLD,
        "output_path": "./smaller",
        "output_sha256": NEW,
        "criterion": "rank 16",
        "encoding": "uniform",
        "encoding_reason": "all modules agree; one r and one α for all modules",
        "modules": tuple(modules),
        "dropped": tuple(module.name for module in modules if module.new_rank == 0),
        "measured_error": math.hypot(sums["predicted_error"], 2e-3),
        "old_bytes": sum(module.old_bytes for module in modules) + 4096,
        "new_bytes": sum(module.new_bytes for module in modules) + 4096,
        "new_max_lora_rank": ranks.max_lora_rank_step(max(module.stored_rank for module in modules)),
        "carried_tensors": 0,
        "carried_files": ("README.md",),
        "left_out_files": (),
        "config_changes": {"r": "64 -> 16", "lora_alpha": "128 -> 32"},
        "architecture": "MistralForCausalLM",
        "runtimes": RUNTIMES,
        "run": RUN,
    }
    return CompressionReport(**(facts | more))


def verdict(runtime: str, version: str, says: Any, why: str = "") -> RuntimeVerdict:
    """One runtime's verdict."""
    page = "" if says == "not run" else f"docs/runtimes.md#{runtime.lower()}"
    return RuntimeVerdict(runtime=runtime, version=version, verdict=says, run=page, why=why)


RUNTIMES = (
    verdict("PEFT", "0.21.2", "loads"),
    verdict("PEFT hotswap", "0.21.2", "not run", "with full weight"),
    verdict("vLLM", "0.32.0", "loads", "with --max-lora-rank 16 or more"),
    verdict(
        "llama.cpp", "0c1e570", "wrong scale", "7 of 224 modules; model.layers.0.mlp.up_proj gets 1, not 2"
    ),
    verdict("X", "1", "refuses", "full weight: not a lora_A or lora_B tensor"),
    verdict("Y", "2", "refuses", "full weight: not a lora_A or lora_B tensor"),
    verdict("Z", "3", "wrong meaning", "LoRA of an embedding"),
)


def mistral(layers: int = 32, new: int | None = 16) -> list[tuple[str, int, int, tuple[int, int], float]]:
    """Name, old and new rank, shape and decay of all projections; new None: ranks that differ."""
    modules = []
    for i in range(layers):
        for j, (kind, shape) in enumerate(MISTRAL.items()):
            decay = 1.5 - 0.9 * i / layers - 0.05 * j
            rank = new if new is not None else 8 + 8 * ((i + j) % 3)
            modules.append((f"model.layers.{i}.{kind}", 64, rank, shape, decay))
    return modules


# ---------------------------------------------------------------- comparisons


def compared(name: str, angle: float, **more: Any) -> ModuleComparison:
    """A module whose update was turned by `angle` degrees, its norm kept."""
    turned = math.radians(angle)
    facts: dict[str, Any] = {
        "name": name,
        "presence": "both",
        "r_a": 8,
        "r_b": 8,
        "norm_a": 1.0,
        "norm_b": 1.0,
        "relative_difference": 2 * math.sin(turned / 2),
        "cosine": math.cos(turned),
        "kept_energy": math.cos(turned) ** 2,
        "compared_dimensions": 3,
        "left_overlap": math.cos(turned) ** 2,
        "right_overlap": 1.0,
        "largest_angle": angle,
    }
    return ModuleComparison(**(facts | more))


def alone(name: str, presence: Any, rank: int = 8) -> ModuleComparison:
    """A module that only one side has, or whose shapes differ."""
    a = {"r_a": rank, "shape_a": (64, 48), "norm_a": 1.5}
    b = {"r_b": rank, "shape_b": (64, 96), "norm_b": 2.5}
    side: dict[str, Any] = {"only-a": a, "only-b": b}.get(presence, a | b)
    return ModuleComparison(name=name, presence=presence, **side)


def comparison(modules: Iterable[ModuleComparison], **more: Any) -> ComparisonReport:
    """The comparison over `modules`, totals as their plain means."""
    rows = tuple(modules)
    both = [row for row in rows if row.presence == "both" and row.cosine is not None]
    mean = {
        name: math.fsum(getattr(row, name) for row in both) / len(both) if both else None
        for name in ("relative_difference", "cosine", "kept_energy")
    }
    count = {
        presence: sum(row.presence == presence for row in rows) for presence in ("both", "only-a", "only-b")
    }
    facts = {
        **mean,
        "path_a": "runs/seed-42",
        "sha256_a": OLD,
        "path_b": "runs/seed-123",
        "sha256_b": NEW,
        "n_both": count["both"],
        "n_only_a": count["only-a"],
        "n_only_b": count["only-b"],
        "n_shapes_differ": sum(row.presence == "shapes-differ" for row in rows),
        "modules": rows,
        "notes": (),
        "run": RUN,
    }
    return ComparisonReport(**(facts | more))


def conversion() -> ConversionReport:
    """The bundled adapter, as if it had come from the hub as a pickle and had held another one."""
    with tempfile.TemporaryDirectory() as folder:
        report = convert_adapter(example_adapter(), Path(folder, "as_peft"))
    other = TensorNote(tensor="other.lora_A.weight", reason="another adapter (other)", params=8)
    source = HubSource(repo="org/mine", revision="v1", commit="c" * 40)
    return report.model_copy(update={"source": source, "pickle": True, "left_out": (other,)})
