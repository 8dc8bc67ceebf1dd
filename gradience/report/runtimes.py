"""Verdicts on runtimes -> a few sentences: what was run and what was read are kept apart, equal reasons are one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gradience.artifacts.compression import RuntimeVerdict, Verdict

RUN = "run: "
"""How a basis begins that links a run."""
ORDER: tuple[Verdict, ...] = ("loads", "wrong scale", "wrong meaning", "refuses", "unknown")
SEEN = {
    "loads": ("loads", "load"),
    "wrong scale": ("loads it with a wrong scale, silently", "load it with a wrong scale, silently"),
    "wrong meaning": ("loads it and silently leaves out", "load it and silently leave out"),
    "refuses": ("refuses", "refuse"),
    "unknown": ("is unclear", "are unclear"),
}
"""What was run, in words: of one runtime, of several."""
READ = {
    "loads": ("should load",) * 2,
    "wrong scale": ("should load it with a wrong scale, silently",) * 2,
    "wrong meaning": ("should load it and silently leave out",) * 2,
    "refuses": ("should refuse",) * 2,
    "unknown": ("is unclear", "are unclear"),
}
"""What was read in the source."""


class Group(NamedTuple):
    """Runtimes with one verdict for one reason, and the sentence that says so."""

    verdict: Verdict
    sentence: str


class Section(NamedTuple):
    """Groups that are known in the same way. title: how."""

    title: str
    ran: bool
    groups: tuple[Group, ...]


def sections(runtimes: Iterable[RuntimeVerdict]) -> list[Section]:
    """What was run, then what was read; in each the good news first, then what goes wrong in silence."""
    ran: list[RuntimeVerdict] = []
    read: list[RuntimeVerdict] = []
    for runtime in runtimes:
        (ran if runtime.basis.startswith(RUN) else read).append(runtime)
    found = []
    if ran:
        pages = dict.fromkeys(item.basis.removeprefix(RUN).partition("#")[0] for item in ran)
        found.append(Section(f"by our runs ({', '.join(pages)})", True, _groups(ran, SEEN)))
    if read:
        found.append(Section("by the source of that version, not run", False, _groups(read, READ)))
    return found


def _groups(runtimes: Iterable[RuntimeVerdict], words: Mapping[str, tuple[str, str]]) -> tuple[Group, ...]:
    grouped: dict[tuple[Verdict, str], list[str]] = {}
    for runtime in runtimes:
        grouped.setdefault((runtime.verdict, runtime.why), []).append(f"{runtime.runtime} {runtime.version}")
    ordered = sorted(grouped, key=lambda key: ORDER.index(key[0]))  # stable: else in the order of the table
    return tuple(Group(key[0], _sentence(grouped[key], words[key[0]], *key)) for key in ordered)


def _sentence(names: Sequence[str], words: tuple[str, str], verdict: Verdict, why: str) -> str:
    said = f"{', '.join(names)} {words[len(names) > 1]}"
    if not why:
        return said
    return f"{said}, {why}" if verdict == "loads" else f"{said}: {why}"
