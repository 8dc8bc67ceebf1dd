"""Which runs may be counted together: independent ones of one protocol, each seed once, and no smoke runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from gradience.bench.config.differences import UNCOUNTED, differences
from gradience.errors import InputError
from gradience.reports.bench import Bench


def check_together(benches: Sequence[Bench], sources: Sequence[str]) -> None:
    """Check that runs may be counted together.

    Raises InputError (bench-smoke, bench-repeated, bench-mismatch, bench-not-independent).
    """
    for bench, source in zip(benches, sources, strict=True):
        if bench.smoke:
            raise InputError(
                f"{source}: a smoke run is no evidence",
                code="bench-smoke",
                hint="run the config without --smoke",
            )
    for (a, here), (b, there) in combinations(zip(benches, sources, strict=True), 2):
        if a.seed == b.seed:
            raise InputError(
                f"{there}: seed {b.seed} is in {here} already: one run would be counted twice",
                code="bench-repeated",
                hint="give every seed once",
            )
        if difference := _difference(a, b):
            raise InputError(
                f"{there}: not the same protocol as {here}: {difference}",
                code="bench-mismatch",
                hint="seeds are counted together only when nothing but the seed differs",
            )
        if same := _same_start(a, b):
            raise InputError(
                f"{there}: not independent of {here}: {same} although the seeds differ",
                code="bench-not-independent",
                hint="these are one run under two names: train again, from a seed that is really set",
            )


def _difference(a: Bench, b: Bench) -> str:
    """The first thing in which two runs may not differ, in words; empty where they agree."""
    named = [
        ("model", a.model, b.model),
        ("base weights", a.base_fingerprint, b.base_fingerprint),
        ("task", a.data.task, b.data.task),
        ("data", a.data.splits, b.data.splits),
        ("evaluated role", a.data.eval_role, b.data.eval_role),
        ("policy", a.policy, b.policy),
    ]
    for what, left, right in named:
        if left != right:
            short = f"{left} there, {right} here" if isinstance(left, str) else "the contents differ"
            return f"another {what} ({short})"
    if a.protocol_digest != b.protocol_digest:
        for key, left, right in differences(a.config, b.config, ignored=("seeds", *UNCOUNTED)):
            return f"`{key}` is {left} there, {right} here"
        return "another protocol digest"
    return ""


def _same_start(a: Bench, b: Bench) -> str:
    """Which beginning two seeds have in common, in words; empty where none."""
    starts = [_starts(bench) for bench in (a, b)]
    for name in starts[0].keys() & starts[1].keys():
        (adapter, batch), (other_adapter, other_batch) = starts[0][name], starts[1][name]
        if adapter == other_adapter:
            return f"{name} started from the same initial adapter"
        if batch == other_batch:
            return f"{name} began with the same first batch"
    return ""


def _starts(bench: Bench) -> dict[str, tuple[str, str]]:
    """Name of a trained adapter -> hashes of its initial weights and of its first batch."""
    trained = {"probe": bench.probe} | {
        result.name: result.measures for result in bench.variants if result.same_as is None
    }
    return {
        name: (one.training.initial_adapter_sha256, one.training.first_batch_sha256)
        for name, one in sorted(trained.items())
        if one is not None and one.training is not None
    }
