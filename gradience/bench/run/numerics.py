"""On what the evaluations of a seed were made: answers are compared only where device, threads and versions agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradience.evaluate.numerics import numerics_differences
from gradience.files.records import ExamplesRun
from gradience.reading import MAX_DATA_BYTES, open_stream
from gradience.reports.stage import MANIFEST


class MadeElsewhere(Exception):
    """Finished evaluations of this seed that cannot be compared with one that is made here and now."""

    def __init__(self, folders: list[Path], differences: str) -> None:
        super().__init__(differences)
        self.folders, self.differences = folders, differences


def refuse_mixture(seed: Path, records: str, here: Mapping[str, Any]) -> None:
    """Raise MadeElsewhere when a finished evaluation below `seed` was made on something else than this.

    records: name of the file of records in the folder of an evaluation. here: `Engine.numerics` of this one.
    """
    elsewhere = {}
    for path in sorted(seed.glob(f"*/eval/{records}")):
        with open_stream(path, limit=MAX_DATA_BYTES) as file:
            run = ExamplesRun.model_validate_json(file.readline())
        differences = numerics_differences(run.model_dump(), here)
        if differences and (path.parent / MANIFEST).is_file():
            elsewhere[path.parent] = differences
    if elsewhere:
        raise MadeElsewhere(list(elsewhere), next(iter(elsewhere.values())))
