"""A signal while an artifact becomes JSON ends as that signal, not as an error of pydantic's."""

from __future__ import annotations

import random
import signal
from collections import Counter

import pytest
from prompt_samples import calibration_report

from gradience.files import records
from gradience.files.artifact import interruptible


def end(signum, frame):
    raise SystemExit(143)


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit])
def test_a_signal_while_json_is_written(ends):
    report, draw = calibration_report(), random.Random(0)
    handler = signal.default_int_handler if ends is KeyboardInterrupt else end
    before = signal.signal(signal.SIGALRM, handler)
    counted = Counter()
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.0001, 0.002))
                while True:
                    report.to_json()
                    records.line(report)
            except BaseException as error:  # noqa: BLE001
                counted[type(error), getattr(error, "code", None)] += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert counted == {(ends, None if ends is KeyboardInterrupt else 143): 300}


def test_other_errors_stay_what_they_are():
    from pydantic_core import PydanticSerializationError, to_json

    with pytest.raises(PydanticSerializationError), interruptible():
        to_json(object())
