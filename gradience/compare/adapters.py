"""Two adapters -> ComparisonReport: every module of both, and the sums."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from gradience.adapters.adapter import DORA_REASON, Adapter, LoraPair
from gradience.adapters.formats import open_adapter
from gradience.adapters.gguf import pairs_of_transformers
from gradience.adapters.memory import measure_bytes, workers_within
from gradience.audit.findings import MEANING, AdapterFacts, find
from gradience.blas import map_in_order, worker_threads
from gradience.compare.module import compare_modules, total_energies
from gradience.compare.settings import CompareSettings
from gradience.errors import InputError
from gradience.files.shared_names import path_text
from gradience.reports.base.run import Stopwatch, hub_source
from gradience.reports.comparison import ComparisonReport
from gradience.runtimes.architecture import model_config_of
from gradience.settings import public
from gradience.words import counted


@public(CompareSettings)
def compare_adapters(settings: CompareSettings) -> ComparisonReport:
    """Compare the adapters at `a` and `b`, and return their differences, module by module and overall.

    >>> report = compare_adapters("my_adapter", "smaller")
    >>> f"{report.relative_difference:.1%}", report.n_both
    ('12.6%', 16)

    Keywords, named like the flags of `gradience compare`:

    Raises InputError if one cannot be read, holds NaN or infinity, or has no known scale; WrongType (a TypeError too)
    for a value that is not a path.
    """
    allow_pickle = settings.allow_pickle
    watch = Stopwatch(settings.command)
    with (
        open_adapter(Path(settings.a), adapter=settings.adapter_a, allow_pickle=allow_pickle) as left,
        open_adapter(Path(settings.b), adapter=settings.adapter_b, allow_pickle=allow_pickle) as right,
        ExitStack() as stack,
    ):
        pairs_a, pairs_b = _by_name(left, right), _by_name(right, left)
        if not pairs_a.keys() & pairs_b.keys():
            raise InputError(
                f"{left.location.path} and {right.location.path} have no module in common; their first modules "
                f"are {min(pairs_a, default='none')[:80]} and {min(pairs_b, default='none')[:80]}",
                code="no-common-module",
                hint="compare adapters of the same base model, saved in the same format",
            )
        names = list(dict.fromkeys([*pairs_a, *pairs_b]))
        known = [(pairs_a.get(name) or pairs_b[name], pairs_b.get(name)) for name in names]
        work = [(pair, measure_bytes(pair, other)) for pair, other in known]
        fitting = workers_within(settings.max_memory, [left, right], work, settings.workers)
        pool = stack.enter_context(worker_threads(fitting))
        digests = [pool.submit(left.sha256), pool.submit(right.sha256)]
        compared = map_in_order(
            pool, lambda name: compare_modules(pairs_a.get(name), pairs_b.get(name)), names, settings.progress
        )
        rows = tuple(row for rows, _ in compared for row in rows)
        presences = Counter(row.presence for row in rows)
        totals = total_energies([energies for _, energies in compared])
        return ComparisonReport(
            path_a=path_text(left.location.path),
            sha256_a=digests[0].result(),
            source_a=hub_source(left.source),
            path_b=path_text(right.location.path),
            sha256_b=digests[1].result(),
            source_b=hub_source(right.source),
            n_both=presences["both"],
            n_only_a=presences["only-a"],
            n_only_b=presences["only-b"],
            n_shapes_differ=presences["shapes-differ"],
            relative_difference=totals.relative_difference,
            cosine=totals.cosine,
            kept_energy=totals.kept_share,
            modules=rows,
            notes=_notes(left, right),
            run=watch.run_info(),
        )


def _by_name(adapter: Adapter, other: Adapter) -> dict[str, LoraPair]:
    """Return the modules under names that `other` has as well, if the two formats name them differently."""
    for pair in adapter.pairs:
        adapter.scale_of(pair)
    if adapter.format != "gguf" or other.format == "gguf" or other.config is None:
        return {pair.module: pair for pair in adapter.pairs}
    return pairs_of_transformers(adapter, model_config_of(other.config, other.location.root))


def _notes(left: Adapter, right: Adapter) -> tuple[str, ...]:
    """Return remarks to show before the figures: different bases, updates that are not B·A, and modules left out."""
    notes = []
    bases = [adapter.config.base_model if adapter.config else None for adapter in (left, right)]
    if None not in bases and bases[0] != bases[1]:
        notes.append(
            f"their configs name different base models ({bases[0]}, {bases[1]}): "
            "unless these are the same weights, the updates belong to different models"
        )
    for label, adapter in (("A", left), ("B", right)):
        facts = AdapterFacts((), adapter)
        notes += [f"{label}: {finding.message}" for finding in find(facts) if finding.code in MEANING]
        if any(note.reason == DORA_REASON for note in adapter.other):
            notes.append(f"{label} is a DoRA adapter: s·B·A is compared, the magnitudes are not")
        if adapter.unaudited:
            tensors = counted(len(adapter.unaudited), "tensor")
            notes.append(f"{label} contains {tensors} that could not be read: not compared")
    return tuple(notes)
