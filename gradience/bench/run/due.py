"""Stages that another process makes: a walk through a seed that makes nothing and says what is due, or makes one.

The walk is the same as that of a run which makes all by itself (seed.py), so that a stage has the same key, and a
result the same facts, wherever its stages were made.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradience import errors
from gradience.artifacts.shared_names import sentence_text
from gradience.artifacts.stage import MANIFEST, StageManifest
from gradience.artifacts.stage_spec import StageFailure
from gradience.bench.run.numerics import MadeElsewhere
from gradience.bench.run.shelf import Shelf
from gradience.bench.run.stages import Due, Make, NotDone, Stages, StorageAway, stage_key
from gradience.digests import sha256_file
from gradience.errors import GradienceError, InputError, NetworkError

LAST_LINES = 20
"""Of a traceback, in what is kept of a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueStages(Stages):
    """Makes nothing. What is not done is due, unless it is known to have failed."""

    failed: Mapping[str, StageFailure] = field(default_factory=dict)
    """Stages of this seed that failed since the run began."""
    shelf: Shelf | None = None
    """Where the stages come from, unless all machines see the folder."""
    passed: dict[str, str] = field(default_factory=dict)
    """Finished stages that the walk has passed -> sha256 of their manifests."""

    def done(self, name: str, depends: Mapping[str, Any], make: Make, *, resumable: bool = True) -> Path:
        """The folder of a finished stage. Raises NotDone, StorageAway, and what ended it elsewhere."""
        folder, key = self.folder / name, stage_key(name, depends)
        try:
            there = self._is_there(name, folder, key)
        except NetworkError as error:
            raise StorageAway(error) from None
        if there:
            self.passed[name] = sha256_file(folder / MANIFEST)
            return folder
        if name in self.failed:
            raise _error_of(self.failed[name])
        raise NotDone(Due(name, key, dict(self.passed)))

    def _is_there(self, name: str, folder: Path, key: str) -> bool:
        """Whether the stage is finished, here and in the storage: what was made before there was one goes there."""
        if self.is_done(name, folder, key):
            if self.shelf is not None and name not in self.passed:
                self.shelf.publish(name)
            return True
        if self.shelf is None:
            return False
        self.shelf.bring(name, weights=False)
        return self.is_done(name, folder, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStage(Stages):
    """Makes the stage `wanted`, and no other."""

    wanted: str
    key: str
    shelf: Shelf | None = None
    """Where inputs come from and the result goes, unless all machines see the folder."""
    failures: list[StageFailure] = field(default_factory=list)
    """How it failed, if it did."""
    seed: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Stages that it builds on -> sha256 of the manifests that who handed it in has seen."""
    finished: list[str] = field(default_factory=list)
    """The wanted stage, when it is there."""

    @property
    def is_made(self) -> bool:
        """Whether the wanted stage is there."""
        return bool(self.finished)

    def done(self, name: str, depends: Mapping[str, Any], make: Make, *, resumable: bool = True) -> Path:
        """The folder of a finished stage, or of the wanted one, made. Raises NotDone, and what `make` raises."""
        folder, key = self.folder / name, stage_key(name, depends)
        if self.shelf is not None:
            self.shelf.bring(name, weights=_needs_weights(self.wanted, name))
        if name != self.wanted:
            if self.is_done(name, folder, key):
                return folder
            if self._is_as_seen(name) and StageManifest.read(folder / MANIFEST).key != key:
                raise self._noted(_differs(name))
            raise NotDone(Due(name, key, {}))
        if key != self.key and not all(map(self._is_as_seen, self.inputs)):
            raise NotDone(Due(name, key, {}))  # made again since: who hands it in next has seen that
        try:
            if key != self.key:
                raise _differs(name)
            Stages.done(self, name, depends, make, resumable=resumable)
            if self.shelf is not None:
                self.shelf.publish(name)
            self.finished.append(name)
            return folder
        except MadeElsewhere as mixed:
            raise self._noted(_mixed(mixed)) from None
        except Exception as error:
            self._noted(error)
            raise

    def _is_as_seen(self, name: str) -> bool:
        """Whether the manifest of an input is the one that who handed the stage in has seen."""
        manifest = self.folder / name / MANIFEST
        return manifest.is_file() and sha256_file(manifest) == self.inputs.get(name)

    def _noted(self, error: Exception) -> Exception:
        self.failures.append(_failure_of(self.wanted, self.seed, error))
        return error


def _needs_weights(wanted: str, stage: str) -> bool:
    """Whether the weights that `stage` has made are read for `wanted`: the probe's, and those of the same variant."""
    variant, _, what = wanted.rpartition("/")
    return what != "train" and stage in ("probe/train", f"{variant}/train", f"{variant}/adapter")


def _differs(name: str) -> InputError:
    return InputError(
        f"{name}: data, base or adapter are others on this machine than where the run was started",
        code="stage-differs",
        hint="give all machines the same files, versions and settings",
    )


def _mixed(error: MadeElsewhere) -> InputError:
    return InputError(
        f"answers of one seed are compared, and earlier ones were made elsewhere: {error}",
        code="machines-differ",
        hint="run on machines of one kind; what is there already can be deleted and made again",
    )


def _failure_of(stage: str, seed: int, error: Exception) -> StageFailure:
    """What is kept of an error."""
    known = error if isinstance(error, GradienceError) else None
    return StageFailure(
        stage=stage,
        seed=seed,
        kind=type(error).__name__,
        message=sentence_text(str(error).split("\n", maxsplit=1)[0]),
        code=known.code if known else "",
        hint=known.hint if known else "",
        host=socket.gethostname(),
        log=tuple(traceback.format_exc().splitlines()[-LAST_LINES:]),
    )


def _error_of(failure: StageFailure) -> Exception:
    """The error again, by its name: what a run does about it is the same wherever it happened."""
    ours = getattr(errors, failure.kind, None)
    if failure.code and isinstance(ours, type) and issubclass(ours, GradienceError):
        return ours(failure.message, code=failure.code, hint=failure.hint)
    other: type[Exception] = type(failure.kind, (Exception,), {})
    return other(failure.message)
