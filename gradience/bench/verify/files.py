"""Digests: the files of a run against `digests.json`, the files of each stage against its manifest."""

from collections.abc import Mapping
from pathlib import Path

from gradience.adapters.locate import WEIGHTS
from gradience.bench.verdict.facts import BEGUN
from gradience.bench.verify.findings import Findings
from gradience.bench.verify.packed import ARCHIVE
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.files.digests import DIGESTS, Digests, files_below, root_of
from gradience.files.shared_names import given_text
from gradience.reading import MAX_DATA_BYTES
from gradience.reports.stage import MANIFEST, StageManifest
from gradience.words import counted

SHOWN = 8


def check_files(folder: Path, findings: Findings, *, below: str = "", expected: str | None = None) -> None:
    """Compare the files in `folder` with its `digests.json`, and that with the root that is expected.

    below: only names that begin so.
    """
    root = root_of(folder)
    if expected is not None and root != expected.strip().lower():
        findings.mismatch(
            DIGESTS, f"sha256 is {root or 'unavailable: the file is missing'}; expected: {expected}"
        )
    if root is None:
        findings.not_done("files", "L1", f"no {DIGESTS}: the run is unfinished")
        findings.gap("files that no stage manifest lists (there is no digests.json)")
        return
    try:
        listed = Digests.read(folder / DIGESTS).files
    except InputError as error:
        findings.mismatch(DIGESTS, str(error))
        return
    listed = {name: digest for name, digest in listed.items() if name.startswith(below)}
    present = {name: path for name, path in files_below(folder).items() if name.startswith(below)}
    absent = [name for name in listed if name not in present and not name.endswith(WEIGHTS)]
    if 2 * len(absent) > len(listed):  # named once, not hundreds of times
        problem = f"{len(absent):,} of {len(listed):,} listed files are missing, such as {absent[0]}"
        findings.mismatch(DIGESTS, f"{problem}: get {ARCHIVE} of the run and put it into the folder")
        listed = {name: digest for name, digest in listed.items() if name not in absent}
    with findings.check("files", "L1", f"{len(listed):,} files match {DIGESTS}"):
        gone = _compare(listed, present, DIGESTS, findings)
    if gone:
        findings.gap(f"the weights of {counted(gone, 'adapter')} that {DIGESTS} lists but that are missing")
    extra = sorted(present.keys() - listed.keys())
    if extra:
        names = ", ".join(extra[:SHOWN]) + (f" and {len(extra) - SHOWN} more" if len(extra) > SHOWN else "")
        findings.gap(f"files not listed in {DIGESTS}: {names}")


def stages_of(seed: Path) -> list[Path]:
    """Return the folders of the finished stages of a seed."""
    return sorted(path.parent for path in (*seed.glob(f"*/{MANIFEST}"), *seed.glob(f"*/*/{MANIFEST}")))


def check_stages(seed: Path, plan_digest: str | None, findings: Findings, *, inside: str = "") -> None:
    """Compare every file of every stage with its manifest. plan_digest: of the plan that they must have followed.

    inside: prefix of the names of this seed's files.
    """
    stages, gone = stages_of(seed), 0
    if not stages:
        return
    problem = f"{inside or 'the run'}: {len(stages)} stages match their manifests"
    with findings.check("stages", "L1", problem):
        for stage in stages:
            name = given_text(stage.relative_to(seed).as_posix())
            at = f"{inside}{name}/"
            try:
                manifest = StageManifest.read(stage / MANIFEST)
            except InputError as error:
                findings.mismatch(f"{at}{MANIFEST}", str(error))
                continue
            if manifest.stage != name:
                findings.mismatch(f"{at}{MANIFEST}", f"of the stage {manifest.stage}", "stage")
            if plan_digest is not None and manifest.plan_digest != plan_digest:
                findings.mismatch(
                    f"{at}{MANIFEST}", "made for a different plan than plan.json", "plan_digest"
                )
            paths = {
                given_text(path.relative_to(stage).as_posix()): path for path in sorted(stage.rglob("*"))
            }
            present = {name: path for name, path in paths.items() if path.is_file()}
            digests = {name: file.sha256 for name, file in manifest.files.items()}
            gone += _compare(digests, present, MANIFEST, findings, at)
            for name, path in present.items():
                if not path.name.startswith(".") and name not in {*digests, MANIFEST, BEGUN}:
                    findings.mismatch(f"{at}{name}", f"not among the files of its stage ({MANIFEST})")
    if gone:
        seed_name = f"{inside}: " if inside else ""
        weights = f"the weights of {counted(gone, 'adapter')} that were not kept"
        findings.gap(f"{seed_name}{weights} (their digests are recorded)")


def _compare(
    listed: Mapping[str, str],
    present: Mapping[str, Path],
    source: str,
    findings: Findings,
    at: str = "",
) -> int:
    """Compare files with the digests in `source`; return how many files of weights are missing."""
    gone = 0
    for name, digest in listed.items():
        path = present.get(name)
        if path is None:
            if name.endswith(WEIGHTS):  # large, and often not published
                gone += 1
            else:
                findings.mismatch(f"{at}{name}", f"listed in {source}, but missing")
            continue
        limit = None if name.endswith(WEIGHTS) else MAX_DATA_BYTES
        try:
            now = sha256_file(path, limit=limit)
        except InputError as error:
            findings.mismatch(f"{at}{name}", str(error))
            continue
        if now != digest:
            findings.mismatch(f"{at}{name}", f"sha256 {now[:16]}…; in {source} {digest[:16]}…")
    return gone
