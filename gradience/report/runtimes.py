"""Verdicts on runtimes -> a few sentences: what was run first, then what was not; equal reasons are one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gradience.artifacts.compression import CompressionReport, RuntimeVerdict, Verdict

ORDER: tuple[Verdict, ...] = ("loads", "wrong scale", "wrong meaning", "refuses", "not run")
WORDS: dict[Verdict, tuple[str, str]] = {
    "loads": ("loads it", "load it"),
    "wrong scale": ("loads it with a wrong scale, silently", "load it with a wrong scale, silently"),
    "wrong meaning": ("loads it and gets it wrong, silently", "load it and get it wrong, silently"),
    "refuses": ("refuses it", "refuse it"),
    "not run": ("", ""),
}
"""Of one runtime, of several."""


class Group(NamedTuple):
    """Runtimes with one verdict for one reason, and the sentence that says so."""

    verdict: Verdict
    sentence: str


class Section(NamedTuple):
    """Groups under a title: what was run, what was not."""

    title: str
    groups: tuple[Group, ...]


def sections(report: CompressionReport) -> list[Section]:
    """What was run, the good news first, then what goes wrong in silence; then what was not run."""
    ran = [row for row in report.runtimes if row.run]
    pages = ", ".join(dict.fromkeys(row.run.partition("#")[0] for row in ran))
    title = f"run on {report.architecture} with such tensors ({pages})"
    parts = ((title, ran), ("not run", [row for row in report.runtimes if not row.run]))
    return [Section(title, _groups(rows)) for title, rows in parts if rows]


def _groups(runtimes: Iterable[RuntimeVerdict]) -> tuple[Group, ...]:
    alike: dict[tuple[Verdict, str], list[str]] = {}
    for row in runtimes:
        alike.setdefault((row.verdict, row.why), []).append(f"{row.runtime} {row.version}")
    ordered = sorted(alike, key=lambda key: ORDER.index(key[0]))  # stable: else in the order of the record
    return tuple(Group(key[0], _sentence(alike[key], *key)) for key in ordered)


def _sentence(names: Sequence[str], verdict: Verdict, why: str) -> str:
    said = " ".join(filter(None, (", ".join(names), WORDS[verdict][len(names) > 1])))
    if not why:
        return said
    return f"{said}, {why}" if verdict == "loads" else f"{said}: {why}"
