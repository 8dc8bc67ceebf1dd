"""On what the evaluations of a seed were made: answers are compared only where device, threads and versions agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradience.artifacts.records import ExamplesRun
from gradience.bench.run.stages import MANIFEST


class MadeElsewhere(Exception):
    """Finished evaluations of this seed that cannot be compared with one that is made here and now."""

    def __init__(self, folders: list[Path], differences: str) -> None:
        super().__init__(differences)
        self.folders, self.differences = folders, differences


def refuse_mixture(seed: Path, records: str, here: Mapping[str, Any]) -> None:
    """Raise MadeElsewhere when a finished evaluation below `seed` was made on something else than this.

    records: name of the file of records in the folder of an evaluation. here: `Engine.numerics` of this one.
    """
    finished = {path.parent: _numerics_of(path) for path in sorted(seed.glob(f"*/eval/{records}"))}
    elsewhere = {
        folder: there for folder, there in finished.items() if there != here and (folder / MANIFEST).is_file()
    }
    if elsewhere:
        raise MadeElsewhere(list(elsewhere), _differences(next(iter(elsewhere.values())), here))


def _numerics_of(records: Path) -> dict[str, Any]:
    with records.open("rb") as file:
        run = ExamplesRun.model_validate_json(file.readline())
    return {"threads": run.threads, "device": run.device, "versions": run.versions}


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """`torch 2.13.0, here 2.14.0; 1 thread …`, in words."""
    before, now = _flat(there), _flat(here)
    return "; ".join(
        f"{name} {before.get(name)}, here {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"device": facts["device"], "threads": facts["threads"], **facts["versions"]}
