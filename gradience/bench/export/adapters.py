"""What every export is about: one adapter of one seed, its counts, and what is known of its difference to the probe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gradience.bench.verdict.folders import AGGREGATE, find_benches
from gradience.errors import InputError
from gradience.reports.bench import Bench, Measures, VariantResult
from gradience.reports.bench_aggregate import BenchAggregate
from gradience.statistics.paired import Interval


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One adapter that was evaluated."""

    name: str
    """`probe`, or the variant's."""
    folder: Path
    """Of the seed."""
    bench: Bench
    measures: Measures
    result: VariantResult | None
    """None: the probe."""
    grade: str | None
    """Over all seeds; None where none was given."""

    @property
    def label(self) -> str:
        """A name of its own in the run."""
        return f"{self.name}-seed{self.bench.seed}"

    @property
    def difference(self) -> Interval | None:
        """Tango's 95 % interval of variant − probe; None for the probe, and where nothing was paired."""
        pairs = self.result.pairs if self.result is not None else None
        if pairs is None:
            return None
        return Interval(pairs.low, pairs.high)


def evaluated(folder: Path) -> Iterator[Evaluated]:
    """Yield the adapters of a run, seed after seed, the probe first; duplicates are left out.

    Raises InputError (`bench-smoke`, `bad-name`), and what `find_benches` and `Bench.read` raise.
    """
    together = BenchAggregate.read(folder / AGGREGATE) if (folder / AGGREGATE).is_file() else None
    for path in find_benches([folder]):
        bench = Bench.read(path)
        if bench.smoke:
            raise InputError(
                f"{path}: a smoke run is no evidence", code="bench-smoke", hint="run it without --smoke"
            )
        for name in (bench.data.task, *(result.name for result in bench.variants)):
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise InputError(
                    f"{path}: {name!r} names no task or variant, but a path",
                    code="bad-name",
                    hint="export the folder as `gradience bench run` wrote it",
                )
        if bench.probe is not None:
            yield Evaluated("probe", path.parent, bench, bench.probe, None, None)
        for result in bench.variants:
            if result.measures is not None and result.same_as is None:
                grade = _grade(result, together)
                yield Evaluated(result.name, path.parent, bench, result.measures, result, grade)


def _grade(result: VariantResult, together: BenchAggregate | None) -> str | None:
    graded = (
        [variant for variant in together.variants if variant.name == result.name] if together else [result]
    )
    evidence = graded[0].evidence if graded else None
    return evidence.grade if evidence is not None else None
