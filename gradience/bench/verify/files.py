"""The files of a run and their digests: `digests.json`, and what has changed since it was written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gradience.adapters.locate import WEIGHTS
from gradience.bench.verdict.facts import CALIBRATION
from gradience.bench.verify.findings import Findings
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.files.digests import DIGESTS, Digests, files_below, root_of
from gradience.reading import MAX_DATA_BYTES
from gradience.words import counted

SHOWN = 8


def check_files(folder: Path, findings: Findings, *, below: str = "", expected: str | None = None) -> None:
    """Compare the files in `folder` with its `digests.json`, and that with the root that is expected.

    below: only names that begin so.
    """
    root = root_of(folder)
    if expected is not None and root != expected.strip().lower():
        findings.mismatch(DIGESTS, f"its sha256 is {root or 'none: it is missing'}; expected: {expected}")
    if root is None:
        findings.not_done("files", "L1", f"there is no {DIGESTS}: an older run, or one that did not end")
        findings.gap("files that no manifest of a stage lists: there is no digests.json")
        return
    try:
        listed = Digests.read(folder / DIGESTS).files
    except InputError as error:
        findings.mismatch(DIGESTS, str(error))
        return
    listed = {name: digest for name, digest in listed.items() if name.startswith(below)}
    there = {name: path for name, path in files_below(folder).items() if name.startswith(below)}
    with findings.check("files", "L1", f"{len(listed):,} files have the digests in {DIGESTS}"):
        _compare(listed, there, findings)
    extra = sorted(there.keys() - listed.keys())
    if extra:
        names = ", ".join(extra[:SHOWN]) + (f" and {len(extra) - SHOWN} more" if len(extra) > SHOWN else "")
        findings.gap(f"files that {DIGESTS} does not list: {names}")


def _compare(listed: Mapping[str, str], there: Mapping[str, Path], findings: Findings) -> None:
    gone = 0
    for name, digest in listed.items():
        if name not in there:
            if name.endswith(WEIGHTS):  # large, and often not published
                gone += 1
            elif not name.endswith(CALIBRATION):  # large as well; the ranks that rest on it say so
                findings.mismatch(name, f"listed in {DIGESTS}, and not there")
            continue
        try:
            now = sha256_file(there[name], limit=None if name.endswith(WEIGHTS) else MAX_DATA_BYTES)
        except InputError as error:
            findings.mismatch(name, str(error))
            continue
        if now != digest:
            findings.mismatch(name, f"sha256 {now[:16]}…; in {DIGESTS} {digest[:16]}…")
    if gone:
        findings.gap(f"the weights of {counted(gone, 'adapter')} that {DIGESTS} lists and that are not here")
