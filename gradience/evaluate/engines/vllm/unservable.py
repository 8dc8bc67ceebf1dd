"""Adapters that are refused before vLLM is started: of a kind that its runs refused or got wrong, and LoRA on the head
where it cannot read prompts with that."""

from __future__ import annotations

from pathlib import Path

from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.errors import InputError
from gradience.reports.compression import Verdict
from gradience.runtimes.architecture import architecture_of
from gradience.runtimes.verdict import verdicts

UNSERVABLE: frozenset[Verdict] = frozenset(("refuses", "wrong meaning", "wrong scale"))
HEAD = "lm_head"


def refuse_unservable(folder: Path, base: Path, version: str, device: str) -> None:
    """Raise InputError (`engine-cannot`) for an adapter that would get no answers, or wrong ones.

    base: folder of the base. version: of vLLM; of another one than was run nothing is known, and it is asked itself.
    device: kind of it.
    """
    with open_adapter(folder) as adapter:
        why = _recorded(adapter, folder, base, version.partition("+")[0])
        if not why and device == "cpu" and _adapts_head(adapter):
            why = f"LoRA on {HEAD}, with which it cannot read prompts on a processor"
    if why:
        raise InputError(
            f"{folder}: vLLM {version} does not serve this adapter: {why}",
            code="engine-cannot",
            hint="use the engine transformers",
        )


def _recorded(adapter: Adapter, folder: Path, base: Path, version: str) -> str:
    """Why not, by the runs of this version of vLLM; empty where it served such adapters, or was never asked."""
    if adapter.config is None:
        return ""
    given = verdicts(adapter, architecture_of(adapter.config, folder, base))
    runs = [row for row in given if row.runtime == "vLLM" and row.version == version]
    return next((row.why for row in runs if row.verdict in UNSERVABLE), "")


def _adapts_head(adapter: Adapter) -> bool:
    return any(pair.module.rpartition(".")[2] == HEAD for pair in adapter.pairs)
