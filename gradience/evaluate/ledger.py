"""Number of tests of a reference adapter on the same rows: each further test can add a false claim.

`.gradience/ledger.json` beside the folders of the runs holds keyed digests, no names and no results. The same test
made again counts once.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradience.errors import InputError, LockedError, OutputError
from gradience.files.whole import write_errors
from gradience.models.lock import only_one
from gradience.reports.evaluation import Ledger

FOLDER, LEDGER = ".gradience", "ledger.json"
WAIT = 10.0
"""Seconds to wait for another run that counts its test."""


def count_test(
    output: Path, reference: tuple[str, str], rows: str, claim: Any, note: Callable[[str], None]
) -> int | None:
    """Count a test of a reference on rows, and return the number of different tests of both; None if it cannot.

    output: folder of the run, which the ledger is beside. reference: digests of its files. rows: digest of the
    examples. claim: what is tested, in what JSON can hold. note: called with the reason if nothing was counted.
    """
    folder = output.absolute().parent / FOLDER
    try:
        with write_errors(folder), only_one(folder, wait=WAIT):
            path = folder / LEDGER
            ledger = Ledger.read(path) if path.is_file() else Ledger(key=secrets.token_hex(16), tests={})
            subject, test = (_keyed(ledger.key, value) for value in ([*reference, rows], claim))
            tests = ledger.tests.get(subject, ())
            if test not in tests:
                tests = (*tests, test)
                ledger.model_copy(update={"tests": {**ledger.tests, subject: tests}}).save(path)
            return len(tests)
    except (InputError, LockedError, OutputError) as error:
        note(f"this test was not counted: {error}")
        return None


def _keyed(key: str, value: Any) -> str:
    return hmac.new(bytes.fromhex(key), json.dumps(value, sort_keys=True).encode(), "sha256").hexdigest()
