"""How large the batches of an evaluation are where nobody says it: tried beforehand, halved where memory ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gradience.evaluate.batches import CPU_TOKENS, TRIED_TOKENS
from gradience.evaluate.engines.base import OutOfMemoryError
from gradience.evaluate.evaluator import Evaluator
from gradience.evaluate.kept import Kept


class Budget:
    """Tokens of a batch: found once for all adapters, since pairs must share their batches."""

    def __init__(
        self, evaluator: Evaluator, kept: Kept | None, depends: Mapping[str, Any], note: Callable[[str], None]
    ) -> None:
        """depends: what the size hangs on: base, precision and device. note: called when all begin again."""
        self.evaluator, self._kept, self._depends, self._note = evaluator, kept, depends, note

    def find(self, reference: tuple[str, Path]) -> None:
        """Give the evaluator the size that was kept, or the first that holds the longest batch.

        On a processor nothing is tried: what it would take is seen when the system has run out of it.
        Raises OutOfMemoryError where a single example does not fit.
        """
        kept = None if self._kept is None else self._kept.budget(self._depends)
        if kept is not None:
            self.evaluator.batch_tokens = kept
            return
        processor = on_processor(self.evaluator.device)
        self.evaluator.batch_tokens = CPU_TOKENS if processor else TRIED_TOKENS
        while not processor:
            try:
                self.evaluator.try_longest(reference)
                break
            except OutOfMemoryError as error:
                self._halve(error)
        self._keep()

    def smaller(self, error: OutOfMemoryError) -> None:
        """Halve the size, so that all adapters are evaluated again. Raises `error` where that cannot help."""
        before = self.evaluator.batch_tokens
        self._halve(error)
        self._note(
            f"batches of {before:,} tokens do not fit in memory ({error}): all adapters are evaluated again in batches"
            f" of {self.evaluator.batch_tokens:,}, since their answers are compared"
        )
        self._keep()

    def _halve(self, error: OutOfMemoryError) -> None:
        tokens = self.evaluator.batch_tokens
        if tokens is None or tokens < 2 or not error.divisible:
            raise error
        self.evaluator.batch_tokens = tokens // 2

    def _keep(self) -> None:
        if self._kept is not None:
            assert self.evaluator.batch_tokens is not None
            self._kept.keep_budget(self._depends, self.evaluator.batch_tokens)


def on_processor(device: str) -> bool:
    """Whether `device` is this machine's processor."""
    from gradience.models.devices import choose_device

    return choose_device(device).type == "cpu"
