"""What the toys use: the page's places, a file that is not there, and the command line."""

import json
import sys
from importlib import import_module
from types import ModuleType

import pytest
from page import ADDITIONS

from gradience.cli import app


@pytest.fixture
def add(monkeypatch):
    """Register `entry` where docs/architecture.md says that the line of its kind stands, and nowhere else.

    name: for a registry with names.   first: before all others, where the order says who is asked first.
    besides: exactly what that column of the page names -> the same with the toy in it.
    """
    replaced = []

    def call(kind, entry, *, name=None, first=False, **besides):
        line, others = ADDITIONS[kind]
        assert besides.keys() == {other.name for other in others}
        module = import_module(line.module)
        registry = getattr(module, line.name)
        if not isinstance(registry, dict):
            monkeypatch.setattr(module, line.name, (entry, *registry) if first else (*registry, entry))
        elif first:
            monkeypatch.setattr(module, line.name, {name: entry, **registry})
        else:
            monkeypatch.setitem(registry, name, entry)
        for other in others:
            old, new = getattr(import_module(other.module), other.name), besides[other.name]
            replace(other.name, old, new)
            replaced.append((other.name, new, old))

    yield call
    for swap in reversed(replaced):
        replace(*swap)


def replace(name, old, new):
    """Let `name` be `new` in every module of Gradience in which it is `old`: where it is defined, and imported."""
    for path, module in list(sys.modules.items()):
        if path.startswith("gradience.") and vars(module).get(name) is old:
            setattr(module, name, new)


@pytest.fixture
def new_file(monkeypatch):
    """As if there were a file `path` under gradience/ with this source."""

    def call(path, source):
        module = ModuleType(".".join(["gradience", *path.removesuffix(".py").split("/")]))
        exec(source, vars(module))
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return call


@pytest.fixture
def command(command, monkeypatch):
    """The same with the toys: a process makes its command line when it starts."""

    def call(*arguments, **code):
        monkeypatch.setattr(app, "app", app.application())
        return command(*arguments, **code)

    return call


@pytest.fixture
def artifact(command):
    """What `gradience ARGUMENTS --json` prints."""
    return lambda *arguments, code=0: json.loads(command(*arguments, "--json", code=code).out)
