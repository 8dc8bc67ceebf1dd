"""Where the stages of a run are done: processes of this machine or a Ray cluster."""

from __future__ import annotations

from importlib import import_module

from gradience.executors.executor import Executor, Order

EXECUTORS = {
    "local": "gradience.executors.local:LocalExecutor",
    "ray": "gradience.executors.ray:RayExecutor",
}
"""Name in a config -> its class, which is imported when it is used."""


def executor(name: str, order: Order) -> Executor:
    """Begin the executor of this name. Raises MissingExtra where its library is not installed."""
    module, _, cls = EXECUTORS[name].partition(":")
    running: Executor = getattr(import_module(module), cls)(order)
    return running
