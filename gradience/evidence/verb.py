"""Two evaluation logs -> EvidenceReport: `gradience evidence`, and `compare_logs` in Python.

"Better" points up here: if lower is better, differences are turned for the tests and turned back for the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gradience.digests import sha256_file
from gradience.errors import InputError, UsageError, require_installed
from gradience.evidence import every_eval_ever, inspect_ai, lm_eval, table
from gradience.evidence.base import Log, LogExample, LogFormat, Wanted, json_lines
from gradience.evidence.settings import EvidenceSettings
from gradience.files.shared_names import path_text, sentence_text
from gradience.reading import check_regular
from gradience.reports.base.exact import share_of_points
from gradience.reports.base.graded import Bounds, Grade
from gradience.reports.base.report import Stopwatch
from gradience.reports.evidence import EvidenceReport, Flip, LogFacts, Planning
from gradience.settings import public
from gradience.statistics.groups import group_note, joined
from gradience.statistics.table import PairedTable
from gradience.words import counted, listed, printable


@public(EvidenceSettings)
def compare_logs(settings: EvidenceSettings) -> EvidenceReport:
    """Compare two logs of the same examples, and return the difference in scores and its grade.

    >>> report = compare_logs("probe.csv", "truncated.csv", margin=1)
    >>> report.grade, report.n, round(report.low, 4), round(report.high, 4)
    ('B', 2186, -0.0029, 0.004)

    A log comes from lm-eval, Inspect or Every Eval Ever, or is a table (CSV, JSON lines) with `id` and `score`.
    Keywords, named like the flags of `gradience evidence`:

    Raises InputError if a log cannot be read or the two logs differ in examples or settings; UsageError if a choice is
    missing; MissingExtra without scipy.
    """
    require_installed("scipy", extra="stats")
    watch = Stopwatch(settings.command)
    wanted = Wanted(settings.metric, settings.filter, settings.group)
    left, right = (read_log(Path(path), wanted) for path in (settings.a, settings.b))
    from gradience.statistics.paired import FEWEST_GROUPS, mean_difference, pair_grade, too_few_groups
    from gradience.statistics.pooled import pool
    from gradience.statistics.power import Assumptions, examples_for_mean, smallest_margin_of_mean

    pairs = paired(left, right)
    lower = direction_of(left, right, settings.lower_is_better)
    margin = _margin(settings.margin, left.metric, pairs, lower_is_better=lower)
    sign = -1.0 if lower else 1.0
    a, b = np.array([pair.a.score for pair in pairs]), np.array([pair.b.score for pair in pairs])
    better = sign * (b - a)
    table, n = PairedTable.of(a != lower, b != lower) if binary(pairs) else None, len(pairs)
    groups = groups_of(pairs, left, settings.group)
    tested = pool([better], groups)
    bounds, p_value = tested.interval(), tested.p_value(margin)
    counted_groups = tested.groups if table is None else None
    few, flat = table is None and tested.groups < FEWEST_GROUPS, False
    planning = Planning(variance=None, examples_80=None, margin_80=None)
    if table is not None:
        ends, assumed = (table.low, table.high), Assumptions(table.discordance)
        needed, smallest = assumed.examples_needed(margin), assumed.smallest_margin(n)
        planning = Planning(variance=table.discordance, examples_80=needed, margin_80=smallest)
    else:
        ends, variance = mean_difference(better), float(better.var(ddof=1))
        flat = bool((better == better[0]).all())
        if variance > 0:
            needed, smallest = examples_for_mean(variance, margin), smallest_margin_of_mean(n, variance)
            planning = Planning(variance=variance, examples_80=needed, margin_80=None if few else smallest)
    grade: Grade = "C" if flat else pair_grade(bounds[0], bounds[1], margin, p_value, groups=counted_groups)

    def amount(value: float) -> str:
        """Return a difference without its sign: `2.5 points` of 0/1 scores, else with three digits."""
        if table is None:
            return f"{abs(value):.3g}"
        points = f"{100 * abs(value):.2f}".rstrip("0").rstrip(".")
        return "1 point" if points == "1" else f"{points} points"

    allowed = amount(margin)
    if flat:
        verdict = f"Inconclusive: all {n:,} differences are equal, so they say nothing about other examples."
    elif grade == "B":
        ahead = f"; it is better by at least {amount(ends[0])}" if ends[0] > 0 else ""
        limit = f"at most {amount(bounds[0])} worse" if bounds[0] < 0 else "not worse"
        verdict = (
            f"The candidate is within the margin of {allowed}: on similar examples it is {limit}"
            f" (one-sided 95 % bound, {n:,} examples){ahead}."
        )
    elif grade == "D":
        by = amount(bounds[1])
        verdict = f"The candidate is worse by at least {by} (one-sided 95 % bound), more than the margin of {allowed}."
    elif few:
        verdict = f"Inconclusive: {too_few_groups(tested.groups)}."
    else:
        verdict = (
            f"Inconclusive: with {n:,} examples, a drop of up to {amount(bounds[0])} cannot be ruled out (margin"
            f" {allowed})."
        )
    low, high = sorted(sign * end for end in ends)
    lowest, highest = sorted(sign * bound for bound in bounds)
    n_lost, n_gained, rows = flips_of(pairs, settings.flips, lower_is_better=lower)
    facts = [_facts(left), _facts(right)]
    notes = unchecked(left, right, pairs)
    if groups is not None:
        notes.append(group_note(n, groups, settings.group))
    if facts[0].sha256 == facts[1].sha256:
        notes.append("both logs are the same file")
    if flat:
        notes.append(
            "all differences are equal, so the interval has no width and says nothing about other examples"
        )
    return EvidenceReport(
        a=facts[0],
        b=facts[1],
        task=left.task if left.task == right.task else None,
        metric=left.metric,
        filter=left.filter,
        lower_is_better=lower,
        n=n,
        groups=tested.groups if groups is not None else None,
        grouped_by=settings.group,
        delta=float((b - a).mean()),
        low=low,
        high=high,
        margin=margin,
        bounds=Bounds(low=lowest, high=highest, p_value=p_value),
        table=table,
        planning=planning,
        grade=grade,
        verdict=verdict,
        n_lost=n_lost,
        n_gained=n_gained,
        flips=rows,
        notes=tuple(notes),
        run=watch.run_info(),
    )


def groups_of(pairs: Sequence[ExamplePair], log: Log, column: str | None) -> tuple[int, ...] | None:
    """Return the group of each pair: by the column, and spellings of one prompt; None if each is its own.

    Raises UsageError (`log-no-groups`) for a column of a log that is not a table, and for a single group.
    """
    if column is not None and log.format != table.NAME:
        raise UsageError(
            f"{log.path}: a log of {log.format} has no column of groups",
            code="log-no-groups",
            hint="give tables (CSV or JSON lines) with `id`, `score` and the column",
        )
    groups = joined([pair.a.group for pair in pairs], [pair.a.spelling for pair in pairs])
    if len(set(groups)) == len(pairs):
        return None
    if len(set(groups)) < 2:
        raise UsageError(
            f"{log.path}: all examples belong to one group",
            code="log-no-groups",
            hint="choose a column with more values",
        )
    return groups


def _margin(
    given: float | None, metric: str, pairs: Sequence[ExamplePair], *, lower_is_better: bool
) -> float:
    """Return the margin in the score's units. Raises UsageError: `no-margin` without a default, `bad-margin`."""
    bounded = all(0 <= item.score <= 1 for pair in pairs for item in (pair.a, pair.b))
    if given is None:
        if bounded and not lower_is_better:
            return 0.025  # 2.5 points, as in the policy of Bench
        raise UsageError(
            f"{metric} has no default margin",
            code="no-margin",
            hint=f"give --margin: in points if every {metric} score is 0 or 1, otherwise in units of the score",
        )
    if not 0 < given < float("inf") or (bounded and given >= 1 and not binary(pairs)):
        raise UsageError(
            f"invalid margin: {given}",
            code="bad-margin",
            hint="give a positive number: points for 0/1 scores (such as 2.5), otherwise units of the score",
        )
    return float(share_of_points(Fraction(repr(given)))) if binary(pairs) else given


def binary(pairs: Sequence[ExamplePair]) -> bool:
    """Return True if every score in both logs is 0 or 1."""
    return all(item.score in (0.0, 1.0) for pair in pairs for item in (pair.a, pair.b))


def flips_of(
    pairs: Sequence[ExamplePair], most: int, *, lower_is_better: bool
) -> tuple[int, int, tuple[Flip, ...]]:
    """Return how many examples the candidate lost and gained, and up to `most` of each, largest first."""
    sign = -1.0 if lower_is_better else 1.0
    changes = [(sign * (pair.b.score - pair.a.score), pair) for pair in pairs]
    lost = sorted((change for change in changes if change[0] < 0), key=lambda change: change[0])
    gained = sorted((change for change in changes if change[0] > 0), key=lambda change: -change[0])
    shown = [
        Flip(
            id=pair.a.id,
            change="lost" if better < 0 else "gained",
            score_a=pair.a.score,
            score_b=pair.b.score,
            excerpt=pair.a.excerpt,
            answer_a=pair.a.output,
            answer_b=pair.b.output,
        )
        for better, pair in [*lost[:most], *gained[:most]]
    ]
    return len(lost), len(gained), tuple(shown)


def _facts(log: Log) -> LogFacts:
    return LogFacts(
        path=path_text(log.path),
        sha256=sha256_file(log.path),
        format=log.format,
        model=None if log.model is None else sentence_text(log.model),
        mean=sum(item.score for item in log.items.values()) / len(log.items),
    )


# ---------------------------------------------------------------- pairs


class ExamplePair(NamedTuple):
    """One example in both logs."""

    a: LogExample
    b: LogExample


def paired(a: Log, b: Log) -> tuple[ExamplePair, ...]:
    """Return the pairs in the order of `a`.

    Raises InputError: `logs-differ` if task, metric, settings, documents or prompts are others, `logs-missing` if
    an example is in only one log, `log-no-pairs`.
    """
    for label, in_a, in_b in _compared(a, b):
        if in_a != in_b:
            raise InputError(
                f"{a.path} and {b.path}: different {label}: {_shown(in_a)} and {_shown(in_b)}",
                code="logs-differ",
                hint="evaluate both with the same tool, task and settings",
            )
    _check_ids(a, b)
    pairs = tuple(ExamplePair(item, b.items[key]) for key, item in a.items.items())
    if len(pairs) < 2:
        raise InputError(
            f"{a.path} and {b.path}: only {counted(len(pairs), 'paired example')}; an interval needs at least 2",
            code="log-no-pairs",
            hint="evaluate more examples; `gradience evidence` says how many a claim needs",
        )
    _check_texts(a, b, "document", ((pair.a.id, pair.a.document, pair.b.document) for pair in pairs))
    _check_texts(a, b, "prompt", ((pair.a.id, pair.a.prompt, pair.b.prompt) for pair in pairs))
    return pairs


def direction_of(a: Log, b: Log, chosen: bool | None) -> bool:
    """Return True if lower is better, from the logs or the option. Raises UsageError (`log-direction`)."""
    for log in (a, b):
        if log.lower_is_better is None:
            continue
        if chosen is not None and chosen != log.lower_is_better:
            better = "lower" if log.lower_is_better else "higher"
            raise UsageError(
                f"{log.path}: according to the log, {better} {log.metric} is better",
                code="log-direction",
                hint="leave --lower-is-better out" if not log.lower_is_better else "add --lower-is-better",
            )
        chosen = log.lower_is_better
    return bool(chosen)


def unchecked(a: Log, b: Log, pairs: Iterable[ExamplePair]) -> list[str]:
    """Return notes on settings that could not be compared because a log lacks them."""
    notes = [f"{name}: {note}" for name, log in (("reference", a), ("candidate", b)) for note in log.notes]
    pair = next(iter(pairs))
    if None in (pair.a.prompt, pair.b.prompt) and None in (pair.a.document, pair.b.document):
        notes.append("the logs have no prompts: examples are matched by id only")
    elif None in (pair.a.prompt, pair.b.prompt):
        notes.append("the logs have no prompts: equal instructions are not checked")
    alone = a.settings.keys() ^ b.settings.keys()
    if alone:
        notes.append(f"found in only one log and not compared: {', '.join(sorted(alone))}")
    return notes


def _compared(a: Log, b: Log) -> Iterator[tuple[str, str, str]]:
    yield "format", a.format, b.format
    if a.task is not None and b.task is not None:
        yield "task", a.task, b.task
    yield "metric", a.metric, b.metric
    yield "filter", a.filter or "none", b.filter or "none"
    for name in a.settings.keys() & b.settings.keys():
        yield name, a.settings[name], b.settings[name]


def _shown(value: str) -> str:
    return printable(value if len(value) <= 300 else f"{value[:299]}…")


def _check_ids(a: Log, b: Log) -> None:
    only_a = [key for key in a.items if key not in b.items]
    only_b = [key for key in b.items if key not in a.items]
    if only_a or only_b:
        raise InputError(
            f"{counted(len(only_a), 'example')} only in {a.path}{_first(only_a)}, {len(only_b)} only in"
            f" {b.path}{_first(only_b)}; {len(a.items) - len(only_a)} in both",
            code="logs-missing",
            hint="evaluate both on all examples: the missing ones may be the hard ones",
        )


def _first(ids: list[str]) -> str:
    return f" ({listed([printable(key[:60]) for key in ids], 3)})" if ids else ""


def _check_texts(a: Log, b: Log, kind: str, rows: Iterable[tuple[str, str | None, str | None]]) -> None:
    known = [(key, text_a == text_b) for key, text_a, text_b in rows if None not in (text_a, text_b)]
    differ = [key for key, same in known if not same]
    if differ:
        raise InputError(
            f"{a.path} and {b.path}: {kind} differs in {len(differ)} of {len(known)} examples{_first(differ)}",
            code="logs-differ",
            hint="compare logs of one version of the task, with the same template, few-shot examples and seed"
            if kind == "prompt"
            else "compare logs of one version of the task: here the same ids name different examples",
        )


# ---------------------------------------------------------------- formats


FORMATS: tuple[LogFormat, ...] = (lm_eval, inspect_ai, every_eval_ever, table)
"""In the order in which they are tried."""
IN_FOLDERS = ("samples_*.jsonl", "*.eval", f"*{every_eval_ever.SAMPLES}")
"""Logs that are found in a folder, and one level below: there tools put them under the model's name."""


def read_log(path: Path, wanted: Wanted) -> Log:
    """Read the log at `path`; in a folder, the only one there is.

    Raises InputError: `log-format` for what no reader knows, `log-several` and `log-none` for a folder, and what the
    readers raise; UsageError (see `base.choose`).
    """
    file = _in_folder(path) if path.is_dir() else path
    check_regular(file)
    _, first = next(json_lines(file), ("", {})) if file.suffix.lower() == ".jsonl" else ("", {})
    for form in FORMATS:
        if form.fits(file, first):
            return form.read(file, wanted)
    hint = f"known are {', '.join(form.NAME for form in FORMATS)}; any other: write a CSV with id and score"
    if file.name.startswith("results_"):
        hint = "lm-eval's results hold no examples: name the samples_*.jsonl beside them (--log_samples writes it)"
    elif file.suffix == ".json":
        hint += "; a JSON log of Inspect: `inspect log convert --to eval`"
    raise InputError(f"{file}: not a known log format", code="log-format", hint=hint)


def _in_folder(folder: Path) -> Path:
    places = (folder.glob(f"{above}{kind}") for kind in IN_FOLDERS for above in ("", "*/"))
    matches = sorted(chain.from_iterable(places))
    if len(matches) == 1:
        return matches[0]
    names = [printable(str(match.relative_to(folder))) for match in matches]
    contents = f"{len(matches)} logs in it: {listed(names, 6)}" if names else "no log in it"
    raise InputError(
        f"{folder}: {contents}",
        code="log-several" if matches else "log-none",
        hint="name the file" if matches else f"name a file, or a folder with one of {', '.join(IN_FOLDERS)}",
    )
