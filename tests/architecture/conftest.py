"""What the toys use: the page's places, and the command line."""

from __future__ import annotations

import json
from importlib import import_module

import pytest
from page import PLACES

from gradience.cli.app import run


@pytest.fixture
def add(monkeypatch):
    """Register `entry` where docs/architecture.md says that the line of its kind stands, and nowhere else.

    name: for a registry with names.   first: before all others, where the order says who is asked first.
    """

    def call(kind, entry, *, name=None, first=False):
        place = PLACES[kind]
        module = import_module(place.module)
        registry = getattr(module, place.registry)
        if not isinstance(registry, dict):
            monkeypatch.setattr(module, place.registry, (entry, *registry) if first else (*registry, entry))
        elif first:
            monkeypatch.setattr(module, place.registry, {name: entry, **registry})
        else:
            monkeypatch.setitem(registry, name, entry)

    return call


@pytest.fixture
def command(capsys):
    """`gradience ARGUMENTS`, which must end with `code`: what it prints to stdout, and what to stderr."""

    def call(*arguments, code=0):
        assert run([*map(str, arguments)]) == code
        return capsys.readouterr()

    return call


@pytest.fixture
def artifact(command):
    """What `gradience ARGUMENTS --json` prints."""
    return lambda *arguments, code=0: json.loads(command(*arguments, "--json", code=code).out)
