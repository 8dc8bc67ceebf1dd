"""Bench results made by hand: small runs whose counts a reader can check in the head."""

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import audit_sample
from audit_sample import mistral_rows, report

from gradience.bench.config import BenchConfig
from gradience.bench.plan import PlannedVariant, asked_for, bench_plan, plan_digest, plan_variants
from gradience.bench.verdict.assemble import best_of, described, gate_sentence, measured, repeated, status_of
from gradience.bench.verdict.facts import gate_passed
from gradience.files.records import pack
from gradience.reports.bench import (
    AuditSummary,
    Bench,
    BenchAggregate,
    BenchData,
    BenchEnvironment,
    DivergenceSummary,
    Gate,
    Measures,
    Probe,
    TrainingFacts,
)
from gradience.reports.bench_plan import DataSplit
from gradience.statistics.table import PairedTable

MISTRAL = {
    "model": {"name": "mistralai/Mistral-7B-v0.1", "type": "causal_lm"},
    "task": {"profile": "gsm8k"},
    "lora": {"probe_r": 64, "alpha": 128},
    "train": {"lr": 1e-4, "max_steps": 1200},
    "compression": {"controls": ["per_layer_shuffled", "rewrite_control"]},
    "seeds": [42, 123, 456],
}
REPORT = report(mistral_rows())
RUN = audit_sample.RUN.model_copy(
    update={"command": "gradience bench run", "started": "2026-01-02T03:04:05+00:00", "seconds": 1234.5}
)


def config(**sections: Any) -> BenchConfig:
    """The published run's, with sections in place of its own."""
    return BenchConfig.model_validate(MISTRAL | sections)


def pairs(n: int, probe: int, only_probe: int, only_variant: int) -> PairedTable:
    return PairedTable(
        n11=probe - only_probe,
        n10=only_probe,
        n01=only_variant,
        n00=n - probe - only_variant,
    )


def answers(n: int, probe: int, seed: int, name: str = "", changed: tuple[int, int] = (0, 0)) -> list[bool]:
    """Return the correct examples: the probe's easiest; a variant has lost and won some, drawn by its name."""
    draw = random.Random(f"{seed} {name}")
    lost, won = draw.sample(range(probe), changed[0]), draw.sample(range(probe, n), changed[1])
    return [(place < probe or place in won) and place not in lost for place in range(n)]


def training(seed: int, name: str) -> TrainingFacts:
    return TrainingFacts(
        steps=1200,
        planned_steps=1200,
        loss=0.4321,
        diverged=False,
        tokens=1_500_000,
        seconds=600.0,
        peak_memory_bytes=40_000_000_000,
        initial_adapter_sha256=f"{name}-init-{seed}",
        first_batch_sha256=f"batch-{seed}",
    )


def probe_of(seed: int, *, correct: int, n: int, gate: str, rank: int = 64, **more: Any) -> Probe:
    facts: dict[str, Any] = {
        "lora_params": REPORT.total_lora_params,
        "other_params": 0,
        "bytes": 335_600_000,
        "adapter_sha256": f"probe-{seed}",
        "n": n,
        "correct": correct,
        "score": correct / n,
        "correct_examples": pack(answers(n, correct, seed)),
        "records": "probe/eval/answers.records.jsonl",
        "records_sha256": f"records-{seed}",
        "training": training(seed, "probe"),
        "seconds": 640.0,
        "rank": rank,
        "gate": Gate(min_value=gate, passed=gate_passed(correct, n, Fraction(gate))),
    }  # fmt: skip
    return Probe(**(facts | more))


def variant_measures(planned: PlannedVariant, seed: int, counts: PairedTable, **more: Any) -> Measures:
    facts: dict[str, Any] = {
        "lora_params": planned.lora_params,
        "other_params": 0,
        "bytes": 2 * planned.lora_params,
        "adapter_sha256": f"{planned.name}-{seed}",
        "n": counts.n,
        "correct": counts.n11 + counts.n01,
        "score": (counts.n11 + counts.n01) / counts.n,
        "correct_examples": pack(
            answers(
                counts.n,
                counts.n11 + counts.n10,
                seed,
                planned.name,
                (counts.n10, counts.n01),
            )
        ),
        "records": f"{planned.name}/eval/answers.records.jsonl",
        "records_sha256": f"records-{planned.name}-{seed}",
        "training": training(seed, planned.name) if planned.making.name == "retrain" else None,
        "seconds": 640.0 if planned.making.name == "retrain" else 31.0,
    }
    return Measures(**(facts | more))


def variants_of(
    seed: int,
    asked: BenchConfig,
    probe: Probe | None,
    probe_error: str,
    correct: int,
    n: int,
    changes: dict[str, tuple[int, int] | str],
) -> tuple[Any, ...]:
    """The results of one seed's variants; changes as in `bench`."""
    planned = asked_for(asked.compression)
    if probe is None:
        return tuple(described(one, "ERROR", (f"there is no probe: {probe_error}",)) for one in planned)
    if not probe.gate.passed:
        return tuple(described(one, "UNDERTRAINED", (gate_sentence(probe),)) for one in planned)
    variants: dict[str, Any] = {}
    for one in plan_variants(REPORT, asked, seed):
        change = changes.get(one.name, (0, 0))
        if one.skipped:
            variants[one.name] = described(one, "SKIPPED", (one.skipped,))
        elif one.same_as:
            variants[one.name] = repeated(one, variants[one.same_as])
        elif isinstance(change, str):
            variants[one.name] = described(one, "ERROR", (change,))
        else:
            counted = pairs(n, correct, *change)
            close = DivergenceSummary(kl_per_example=0.0123, kl_per_example_standard_error=0.0011, flips=31)
            measures = variant_measures(one, seed, counted)
            variants[one.name] = measured(one, measures, counted, asked.policy, close)
    return tuple(variants.values())


def bench(
    seed: int,
    changes: dict[str, tuple[int, int] | str] | None = None,
    *,
    correct: int = 57,
    n: int = 200,
    gate: str = "0.10",
    asked: BenchConfig | None = None,
    probe_error: str = "",
    **more: Any,
) -> Bench:
    """One seed. changes: name of a variant -> the error it ended in, or the numbers of examples that only the probe and
    only the variant has correct; (0, 0) if not named."""
    asked = asked or config()
    probe = None if probe_error else probe_of(seed, correct=correct, n=n, gate=gate)
    splits = (
        DataSplit(role="train", n=7473, sha256="t" * 64),
        DataSplit(role="confirm", n=n, sha256="c" * 64),
    )
    variants = variants_of(seed, asked, probe, probe_error, correct, n, changes or {})
    status, reasons = status_of(variants)
    facts: dict[str, Any] = {
        "smoke": asked.smoke,
        "status": status,
        "reasons": reasons,
        "seed": seed,
        "planned_seeds": asked.seeds,
        "model": asked.model.name,
        "model_type": asked.model.type,
        "base_params": 7_241_732_096,
        "base_fingerprint": "7231864981174d9bee8c7687c24c8344414eae6b",
        "config": asked.model_dump(mode="json"),
        "config_digest": asked.digest(),
        "protocol_digest": asked.protocol_digest(),
        "plan_digest": plan_digest(bench_plan(asked, "gsm8k", splits)),
        "policy": asked.policy,
        "data": BenchData(
            task="gsm8k",
            source={"dataset": "openai/gsm8k"},
            splits=splits,
            eval_role=asked.task.eval_role,
            counts={"rows": 8792, "duplicates": 0, "conflicts": 0},
        ),
        "environment": BenchEnvironment(
            device="NVIDIA H100 80GB HBM3",
            dtype="bfloat16",
            threads=1,
            versions={"torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2"},
        ),
        "probe": probe,
        "audit": AuditSummary(**{name: getattr(REPORT, name) for name in AuditSummary.model_fields})
        if probe is not None and probe.gate.passed
        else None,
        "variants": variants,
        "best": best_of(variants),
        "run": RUN,
    }
    return Bench(**(facts | more))


def of_arms(*changes: tuple[int, int]) -> dict[str, tuple[int, int] | str]:
    """Changes of the variants of the published run that are made."""
    arms = ("uniform_median", "per_layer", "per_layer_shuffled", "rewrite_control")
    return dict(zip(arms, changes, strict=True))


PUBLISHED = {
    42: (54, of_arms((13, 8), (9, 16), (14, 6), (1, 2))),
    123: (57, of_arms((8, 10), (11, 7), (9, 9), (0, 0))),
    456: (60, of_arms((9, 11), (7, 20), (8, 8), (2, 1))),
}
"""Seed -> correct answers of the probe, and changes: invented counts with the published probe scores at n = 200."""


def three_seeds(**more: Any) -> list[Bench]:
    """Three seeds with the published probe scores."""
    return [bench(seed, changes, correct=correct, **more) for seed, (correct, changes) in PUBLISHED.items()]


def save_seeds(folder: Path) -> None:
    """Write the three seeds as a run leaves them."""
    for one in three_seeds():
        (folder / f"seed_{one.seed}").mkdir(parents=True)
        one.save(folder / f"seed_{one.seed}" / "bench.json")


def named(result: Bench | BenchAggregate, name: str) -> Any:
    return next(variant for variant in result.variants if variant.name == name)


SEEDS = (42, 123, 456)
STEPS = (32, 16, 8, 4)
LARGE: dict[str, Any] = {"n": 2000, "correct": 1500}
"""Enough examples to show something."""


def ladder(*losses: tuple[int, int], seeds: Sequence[int] = SEEDS, **more: Any) -> list[Bench]:
    """Seeds with a ladder of four steps. losses: one number for each step, the same on every seed."""
    compression = {"variants": ["uniform_r2"], "controls": [], "ladder": {"steps": list(STEPS)}}
    asked = config(compression=compression, seeds=list(seeds))
    changes: dict[str, tuple[int, int] | str] = {
        f"ladder.r{step}": loss for step, loss in zip(STEPS, losses, strict=True)
    }
    return [bench(seed, changes, asked=asked, **(LARGE | more)) for seed in seeds]
