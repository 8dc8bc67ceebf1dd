"""Pages of every kind: of each report that has a page, and of what is kept from real runs."""

from collections.abc import Callable
from pathlib import Path

from audit_sample import mistral_rows, power_law, row
from audit_sample import report as audit_report
from compression_sample import mistral as mistral_modules
from compression_sample import plan, planned
from hostile.samples import artifacts
from test_faces import SAMPLES

from gradience import audit_adapter
from gradience.cli.demo import example_adapter
from gradience.reports.audit import AuditReport
from gradience.reports.base.prediction import Prediction
from gradience.reports.compression import CompressionPlan, CompressionReport
from gradience.sources import PageSource, read_sources

RUNS = Path(__file__).parents[1] / "monitor" / "runs"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


PREDICTION = Prediction(
    kl_per_token=0.0124, standard_error=0.0009, rows=64, scored_tokens=8000, excluded_modules=0, ratios={}
)


def calibrated_plan() -> CompressionPlan:
    """Return a plan with its predicted KL."""
    return plan([planned(*one) for one in mistral_modules()], prediction=PREDICTION)


def calibrated_compression() -> CompressionReport:
    """What was written of one."""
    return SAMPLES["CompressionReport"]().model_copy(update={"prediction": PREDICTION})


def checkpoint(step: int) -> AuditReport:
    """An audit of one step: spectra get sharper, in early layers first."""
    rows = [
        row(
            f"model.layers.{index}.self_attn.{kind}_proj", power_law(16, 0.2 + step / 400 / (1 + index)), r=16,
            shape=(256, 256), layer=f"model.layers.{index}", index=index,
        )
        for index in range(8)
        for kind in "qkvo"
    ]  # fmt: skip
    return audit_report(rows, path=f"run/checkpoint-{step}")


def of(name: str, report: Callable[[], object]) -> Callable[[], list[PageSource]]:
    return lambda: [PageSource(f"{name}.json", report())]


def kept(*paths: Path) -> Callable[[], list[PageSource]]:
    return lambda: read_sources(paths)


PAGES: dict[str, Callable[[], list[PageSource]]] = {
    **{name: of(name, sample) for name, sample in SAMPLES.items()},
    "Verification": of("verification", lambda: artifacts()["verification"]),
    "example adapter": lambda: [PageSource("audit.json", audit_adapter(example_adapter()))],
    "thousand modules": of("audit", lambda: audit_report(mistral_rows(layers=143, r=64))),
    "calibrated compression": of("compression_report", calibrated_compression),
    "calibrated plan": of("plan", calibrated_plan),
    "checkpoints": lambda: [
        PageSource(f"checkpoint-{step}/audit.json", checkpoint(step)) for step in (100, 200, 400, 800)
    ],
    "run": kept(RUNS / "good.jsonl"),
    "bench of five seeds": kept(RESULTS / "minilm_reviews" / "bench_aggregate.json"),
    "bench of one seed": kept(RESULTS / "minilm_reviews_demo" / "bench.json"),
    "calibrated shrink": kept(RESULTS / "minilm_shrink_calibrated" / "shrink.json"),
    "calibration": kept(RESULTS / "minilm_calibration" / "calibration.safetensors"),
}
"""What it shows -> its sources. Of the samples by the name of their class all reports have their page."""
