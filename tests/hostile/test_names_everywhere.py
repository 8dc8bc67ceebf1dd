"""Hostile names x every report x every output format: no control characters, no markup, no lost text (R16).

In each sample every text that may be any text is replaced at once.
"""

import json
from functools import cache

import pytest
from pydantic import ValidationError
from test_names import WORST, parsed, steering

from gradience.reports.base import html, terminal
from gradience.reports.registry import reports as report_classes
from hostile import samples

NAMES = {"worst": WORST, "long": "x" * 10_000, "separators": "../../a/b\\c:d\0e"}
"""The escapers, of which each face has one, are tested with all names in tests/report/test_names.py."""


@cache
def reports():
    """One of each report, by its class."""
    return {
        type(sample).__name__: sample
        for sample in samples.artifacts().values()
        if type(sample).__name__ in report_classes()
    }


def paths(value, at=()):
    """Where texts stand in a JSON value."""
    if isinstance(value, str):
        yield at
    elif isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(part, (*at, key))


def with_text(values, places, text):
    """A copy in which `text` stands at these places."""
    copy = json.loads(json.dumps(values))
    for *parents, last in places:
        part = copy
        for key in parents:
            part = part[key]
        part[last] = text
    return copy


@cache
def free_places(kind):
    """Where a report may hold any text: the schema takes it, and the report can be drawn."""
    sample = reports()[kind]
    values = sample.model_dump(mode="json")
    places = []
    for place in paths(values):
        try:
            changed = type(sample).model_validate(with_text(values, [place], "[any]/../name"))
            changed.to_markdown()
        except (ValidationError, ValueError, KeyError):
            continue
        places.append(place)
    return values, tuple(places)


def named(kind, name):
    values, places = free_places(kind)
    return type(reports()[kind]).model_validate(with_text(values, places, name))


def html_of(report):
    return html.render(report.blocks())


def structure(markdown):
    """Headings, and how many cells every row of a table has."""
    lines = markdown.splitlines()
    return [line.split(" ")[0] for line in lines if line.startswith("#")], [
        line.count("|") for line in lines if line.startswith("|")
    ]


@pytest.mark.parametrize("kind", report_classes())
def test_hostile_names_in_every_report(kind):
    assert len(free_places(kind)[1]) >= 5
    plain = named(kind, "plain")
    for name in NAMES.values():
        report = named(kind, name)
        text, page, markup = terminal.render(report.blocks(), width=80), report.to_markdown(), html_of(report)
        assert [steering(each, "\n") for each in (text, page, markup, report.to_json())] == [set()] * 4
        assert not any(line.startswith("error:") for line in text.splitlines())
        assert structure(page) == structure(plain.to_markdown())
        assert parsed(markup).tags == parsed(html_of(plain)).tags
        assert type(report).model_validate_json(report.to_json()) == report
