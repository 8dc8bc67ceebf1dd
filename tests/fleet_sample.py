"""Reports of fleets: those of a kept run, with a failure each, and a row made by hand."""

from pathlib import Path

from gradience.reports.fleet import Failure, FleetCompression, FleetReport, FleetRow, Truncated

KEPT = Path(__file__).parents[1] / "benchmarks" / "results" / "fleet_probes"


def fleet_row() -> FleetRow:
    return FleetRow(
        path="zoo/a",
        status="ok",
        stamp={"adapter_model.safetensors": (9, 1)},
        sha256="0" * 64,
        bytes=9,
        format="peft",
        base_model="org/base",
        dtypes=("BF16",),
        rank=32,
        modules=2,
        trained=2,
        params=128,
        width=4.0,
        fro_norm=1.5,
        lost_energy_at={1: 0.5, 8: 0.1, 16: 0.01},
    )


def fleet_report() -> FleetReport:
    failure = Failure(code="pickle", adapters=1, first="zoo/p", message="a pickle file (torch.save)")
    return FleetReport.read(KEPT / "fleet.json").model_copy(
        update={"adapters": 10, "failed": 1, "failures": (failure,)}
    )


def fleet_compression() -> FleetCompression:
    kept = FleetCompression.read(KEPT / "fleet_compression.json")
    failed = Truncated(path="c", status="failed", error="dora", message="a DoRA adapter")
    return kept.model_copy(update={"failed": 1, "adapters": (*kept.adapters, failed)})
