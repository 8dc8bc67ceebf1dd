"""The verdict of each runtime on an adapter, from its runs of adapters that hold the same."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.adapters.adapter import Adapter
from gradience.reports.compression import RuntimeVerdict, Verdict
from gradience.runtimes.parts import Parts, is_general, parts_of
from gradience.runtimes.record import Runs, RuntimeRecord, read_runs
from gradience.runtimes.runtime import RUNTIMES
from gradience.runtimes.scales import LoadedAdapter, LoadedModule, wrong_scale

UNKNOWN = "the architecture is not known: --base-model DIR, with the base model's config.json, names it"
USUAL_TYPES = frozenset(("F32", "F16", "BF16"))
"""Storage types that say nothing about an adapter; one in another type counts as run only where such a one was."""
NAMED_PARTS = 2
"""Parts that a sentence names before it counts."""


def verdicts(adapter: Adapter, architecture: str | None) -> tuple[RuntimeVerdict, ...]:
    """Return one verdict per runtime that was ever run, on an open adapter of PEFT.

    architecture: class of the base model (see `architecture_of`); None where it is not known, and then nothing was run.
    """
    fields = adapter.config.fields if adapter.config else {}
    written = LoadedAdapter(fields, [LoadedModule(pair.module, pair.rank) for pair in adapter.pairs])
    parts = parts_of(fields, (name for name, _ in adapter.entries()), written.largest)
    types = {factor.entry.dtype.name for pair in adapter.pairs for factor in (pair.a, pair.b)}
    parts |= {f"factors stored as {name}" for name in types - USUAL_TYPES}
    return tuple(verdict_of(record, written, parts, architecture) for record in read_runs())


def verdict_of(
    record: RuntimeRecord, adapter: LoadedAdapter, parts: Parts, architecture: str | None
) -> RuntimeVerdict:
    """Return the verdict of one runtime. Pure."""
    runs = record.architectures.get(architecture or "")
    if runs is None:
        verdict: Verdict = "not run"
        why = UNKNOWN if architecture is None else f"no adapter for {architecture}"
    else:
        verdict, why = _from_runs(record.runtime, runs, adapter, parts)
    page = "" if verdict == "not run" else record.page
    return RuntimeVerdict(runtime=record.runtime, version=record.version, verdict=verdict, why=why, run=page)


def _from_runs(runtime: str, runs: Runs, adapter: LoadedAdapter, parts: Parts) -> tuple[Verdict, str]:
    for finding in runs.refuses:
        if finding.parts <= parts:
            return "refuses", f"{named(finding.parts)}: {finding.says}" if finding.parts else finding.says
    for finding in runs.wrong:
        if finding.parts <= parts:
            return "wrong meaning", named(finding.parts)
    if not any(parts <= loaded for loaded in runs.loads):
        missing = min((parts - loaded for loaded in runs.loads), key=len, default=parts)
        return "not run", f"with {named(missing)}"
    wrong = wrong_scale(RUNTIMES[runtime].scale, adapter)
    return ("wrong scale", wrong) if wrong else ("loads", RUNTIMES[runtime].needs(adapter))


def named(parts: Parts) -> str:
    """Return the parts in words, those that say most first."""
    general = sorted(part for part in parts if is_general(part))
    words: Sequence[str] = general or sorted(parts)
    rest = len(words) - NAMED_PARTS
    return ", ".join(words[:NAMED_PARTS]) + (f" and {rest} more" if rest > 0 else "")
