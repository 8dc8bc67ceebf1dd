"""Reports of fleets, made by hand."""

from datetime import UTC, datetime

from gradience.reports.base.run import Stopwatch
from gradience.reports.fleet import (
    BaseGroup,
    Failure,
    FleetReport,
    FleetRow,
    NotServed,
    Oversized,
    Step,
)
from gradience.reports.fleet_compression import FleetCompression, Truncated

RUN = Stopwatch("gradience fleet zoo", started=datetime(2026, 1, 1, tzinfo=UTC)).run_info()


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
    steps = tuple(
        Step(max_lora_rank=k, slot_bytes=k * 8, truncated=1, lost_energy_median=0.1, lost_energy_max=0.2)
        for k in (16, 8, 1)
    )
    base = BaseGroup(
        base_model="org/base",
        adapters=3,
        bytes=27,
        largest_rank=32,
        max_lora_rank=32,
        slot_bytes=256,
        steps=steps,
        target=16,
        recommended=False,
        above=1,
        forcing=(Oversized(path="zoo/a", rank=32, lost_energy=0.2),),
    )
    return FleetReport(
        adapters=4,
        measured=2,
        reused=2,
        failed=1,
        incomplete=1,
        untrained=0,
        bytes=27,
        params=384,
        elsewhere=1,
        engine="vLLM 0.32.0",
        slots=8,
        max_error=0.25,
        limit=None,
        limit_adapters=None,
        bases=(base,),
        not_served=(NotServed(reason="in the format of mlx, not of PEFT", adapters=1, first="zoo/m"),),
        failures=(Failure(code="pickle", adapters=1, first="zoo/p", message="a pickle file (torch.save)"),),
        run=RUN,
    )


def fleet_compression() -> FleetCompression:
    return FleetCompression(
        rank=4,
        written=1,
        reused=0,
        small_enough=1,
        failed=1,
        old_bytes=9,
        new_bytes=4,
        adapters=(
            Truncated(path="a", status="written", old_rank=8, old_bytes=9, new_bytes=4, measured_error=0.1),
            Truncated(path="b", status="small enough", old_rank=2, old_bytes=9),
            Truncated(path="c", status="failed", error="dora", message="a DoRA adapter"),
        ),
        run=RUN,
    )
