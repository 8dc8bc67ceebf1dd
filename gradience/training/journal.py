"""What an unfinished training was started from, so that only the same training resumes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from gradience.digests import sha256_text
from gradience.errors import InputError
from gradience.files.whole import write_whole
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.training import Earlier


class Numerics(BaseModel):
    """On what a process computes: what `Earlier` says of steps that were done elsewhere."""

    model_config = ConfigDict(extra="forbid")

    device: str
    threads: int
    versions: dict[str, str]


class Started(BaseModel):
    """What the file says: what decides the training, and on what it ran."""

    call: str
    """Digest of everything that decides the training."""
    initial: str
    """Digest of the adapter before the first step."""
    first_batch: str
    numerics: Numerics
    """Device, threads and versions of the process that is at work, or was last."""
    resumed: list[int] = []
    earlier: list[Earlier] = []


class Journal:
    """Written when the first step is done, read when the training is resumed."""

    def __init__(
        self, path: Path, call: Mapping[str, Any], initial: str, numerics: Mapping[str, Any]
    ) -> None:
        """call: what decides the training. initial: digest of the adapter as this process drew it.

        numerics (device, threads, versions) may differ when the training is resumed: then the file names both.
        Raises InputError (`other-training`) when `path` was written by a training with other settings.
        """
        self.path, self.initial, self.numerics = path, initial, Numerics(**numerics)
        self.call = sha256_text(json.dumps(call, sort_keys=True, default=str))
        self.started = self._read()
        if self.started and self.started.call != self.call:
            raise InputError(
                f"{path.parent}: contains another training, begun with other settings or data",
                code="other-training",
                hint="give an empty folder, or delete this one",
            )

    def begin(self, first_batch: str) -> None:
        """Record the start, once the first step is done."""
        self._write(
            Started(call=self.call, initial=self.initial, first_batch=first_batch, numerics=self.numerics)
        )

    def resume(self, step: int) -> None:
        """Record that the training resumes from the checkpoint of `step`."""
        if self.started is None:
            return
        update: dict[str, Any] = {"resumed": [*self.started.resumed, step], "numerics": self.numerics}
        if self.started.numerics != self.numerics:
            before = Earlier(until_step=step, **self.started.numerics.model_dump())
            update["earlier"] = [*self.started.earlier, before]
        self._write(self.started.model_copy(update=update))

    def _write(self, started: Started) -> None:
        self.started = started
        write_whole(self.path, [started.model_dump_json().encode()])

    def _read(self) -> Started | None:
        if not self.path.exists():
            return None
        try:
            return Started.model_validate_json(read_file(self.path, MAX_SETTINGS_BYTES))
        except ValidationError as error:
            raise InputError(
                f"{self.path}: not a valid training journal: {error.errors(include_url=False)[0]['msg']}",
                code="other-training",
                hint="delete the folder and train again",
            ) from None
