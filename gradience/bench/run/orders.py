"""Stages that a task of Ray makes: a walk through a seed that makes nothing and says what is due, or makes one stage.

The walk is that of a run which makes everything itself (seed.py). So a stage has the same key, and a result the same
facts, wherever its stages were made.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gradience import errors
from gradience.bench.config.load import BenchConfig
from gradience.bench.run.seed import MadeElsewhere, SeedRun
from gradience.bench.run.stages import LAST_LINES, Due, Make, NotDone, Stages, stage_key
from gradience.errors import GradienceError, InputError
from gradience.files.shared_names import sentence_text
from gradience.models.devices import threads
from gradience.reports.stage import MANIFEST
from gradience.tasks.base import rendered


@dataclass(frozen=True, slots=True)
class StageOrder:
    """One stage for a process on any machine that has the same base and data. Holds no code and allows none."""

    config: Mapping[str, Any]
    """Config of the run with all its defaults and absolute paths."""
    plan: str
    """Digest of plan.json."""
    seed: int
    stage: str
    """Such as `uniform_median/train`."""
    key: str
    """Expected key of the stage."""
    inputs: tuple[str, ...]
    """Finished stages that the stage builds on."""


@dataclass(frozen=True, slots=True)
class StageFailure:
    """An exception of another process."""

    kind: str
    """Class name of the exception."""
    message: str
    """One line."""
    code: str = ""
    """Code of an error that a user can act on; empty for any other."""
    hint: str = ""
    log: tuple[str, ...] = ()
    """Last lines of its traceback, and the machine."""

    @classmethod
    def of(cls, error: Exception) -> StageFailure:
        """Return what is kept of an error that is being handled."""
        known = error if isinstance(error, GradienceError) else None
        return cls(
            kind=type(error).__name__,
            message=sentence_text(str(error).split("\n", maxsplit=1)[0]),
            code=known.code if known else "",
            hint=known.hint if known else "",
            log=(f"on {socket.gethostname()}", *traceback.format_exc().splitlines()[-LAST_LINES:]),
        )

    def error(self) -> Exception:
        """Return the exception again, so that a run treats it as one of its own process."""
        ours = getattr(errors, self.kind, None)
        if self.code and isinstance(ours, type) and issubclass(ours, GradienceError):
            return ours(self.message, code=self.code, hint=self.hint)
        other: type[Exception] = type(self.kind, (Exception,), {})
        return other(self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class DueStages(Stages):
    """Makes nothing: a stage that is not finished is due, unless it has failed."""

    failed: Mapping[str, StageFailure]
    """Stages of this seed that failed since the run began."""
    passed: list[str] = field(default_factory=list)
    """Finished stages that this and earlier walks have passed."""

    def done(self, name: str, depends: Mapping[str, Any], make: Make, **how: Any) -> Path:
        """Return the folder of a finished stage. Raises NotDone, or the error that ended the stage elsewhere."""
        folder, key = self.folder / name, stage_key(name, depends)
        if self.is_done(name, folder, key):
            self.passed.append(name)
            return folder
        if name in self.failed:
            raise self.failed[name].error()
        raise NotDone(Due(name, key, tuple(dict.fromkeys(self.passed))))


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStage(Stages):
    """Makes the stage of an order, and no other."""

    order: StageOrder
    outcome: list[StageFailure | None]
    """Receives None once the stage is finished, or its failure."""

    def done(self, name: str, depends: Mapping[str, Any], make: Make, **how: Any) -> Path:
        """Return the folder of a finished stage, or of the ordered one. Raises NotDone, and what `make` raises."""
        folder, key = self.folder / name, stage_key(name, depends)
        if name != self.order.stage:
            if self.is_done(name, folder, key):
                return folder
            if name in self.order.inputs and (folder / MANIFEST).is_file():
                raise self._failed(_differs(name))
            raise NotDone(Due(name, key))
        if key != self.order.key:
            raise self._failed(_differs(name))
        try:
            Stages.done(self, name, depends, make, **how)
        except MadeElsewhere as mixed:
            raise self._failed(_mixed(mixed)) from None
        except Exception as error:
            self._failed(error)
            raise
        self.outcome.append(None)
        return folder

    def _failed(self, error: Exception) -> Exception:
        self.outcome.append(StageFailure.of(error))
        return error


def make_stage(order: StageOrder, folder: Path) -> StageFailure | None:
    """Make the stage of an order in the folder of its seed, which holds the inputs. Returns its failure, or None."""
    outcome = list[StageFailure | None]()
    try:
        config = BenchConfig.model_validate(order.config)
        task = rendered(config.task.load(), config.model)
        stages = partial(OneStage, order=order, outcome=outcome)
        with threads(config.runtime.threads):
            run = SeedRun(config, task, order.seed, folder, plan=order.plan, stages=stages)
            try:
                run.walk()
            finally:
                run.evaluator.close()
    except (GradienceError, ValidationError) as error:
        return outcome[0] if outcome else StageFailure.of(error)
    return outcome[0] if outcome else StageFailure.of(_differs(order.stage))


def _differs(name: str) -> InputError:
    return InputError(
        f"{name}: data, base or adapter differ on this machine from those of the process that started the run",
        code="stage-differs",
        hint="give all machines the same files, versions and settings",
    )


def _mixed(error: MadeElsewhere) -> InputError:
    return InputError(
        f"answers of one seed are compared, and earlier ones were made on a different machine: {error}",
        code="machines-differ",
        hint="run on machines of one kind, or delete the earlier evaluations to repeat them",
    )
