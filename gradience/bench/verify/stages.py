"""The manifests of a seed's stages against their files, and against the plan."""

from __future__ import annotations

from pathlib import Path

from gradience.adapters.locate import WEIGHTS
from gradience.bench.verdict.facts import CALIBRATION
from gradience.bench.verify.findings import Findings
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.files.shared_names import given_text
from gradience.reading import MAX_DATA_BYTES
from gradience.reports.stage import MANIFEST, StageManifest
from gradience.words import counted

UNFINISHED = "begun"


def stages_of(seed: Path) -> list[Path]:
    """Return the folders of the finished stages of a seed."""
    return sorted(path.parent for path in (*seed.glob(f"*/{MANIFEST}"), *seed.glob(f"*/*/{MANIFEST}")))


def check_stages(seed: Path, plan_digest: str | None, findings: Findings, *, inside: str = "") -> None:
    """Compare every file of every stage with its manifest. plan_digest: of the plan that they must have followed.

    inside: what stands before the names of this seed's files.
    """
    stages, gone = stages_of(seed), 0
    if not stages:
        return
    with findings.check(
        "stages", "L1", f"{inside or 'the run'}: {len(stages)} stages are as their manifests say"
    ):
        for stage in stages:
            name = given_text(stage.relative_to(seed).as_posix())
            try:
                manifest = StageManifest.read(stage / MANIFEST)
            except InputError as error:
                findings.mismatch(f"{inside}{name}/{MANIFEST}", str(error))
                continue
            if manifest.stage != name:
                findings.mismatch(f"{inside}{name}/{MANIFEST}", f"of the stage {manifest.stage}", "stage")
            if plan_digest is not None and manifest.plan_digest != plan_digest:
                findings.mismatch(
                    f"{inside}{name}/{MANIFEST}", "it followed another plan than plan.json", "plan_digest"
                )
            gone += _compare(stage, manifest, findings, f"{inside}{name}/")
    if gone:
        findings.gap(f"the weights of {counted(gone, 'adapter')} that were not kept: their digests are there")


def _compare(stage: Path, manifest: StageManifest, findings: Findings, at: str) -> int:
    """Compare the files of one stage; return how many files of weights are not there."""
    gone = 0
    for name, file in manifest.files.items():
        path = stage / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            findings.mismatch(f"{at}{MANIFEST}", f"{name} is no file of this stage", "files")
        elif not path.is_file():
            if name.endswith(WEIGHTS):
                gone += 1
            elif not name.endswith(CALIBRATION):
                findings.mismatch(f"{at}{name}", f"listed in {MANIFEST}, and not there")
        elif path.stat().st_size > max(file.bytes, MAX_DATA_BYTES):  # a digest of 20 GB would take minutes
            findings.mismatch(f"{at}{name}", f"{path.stat().st_size:,} bytes; in {MANIFEST} {file.bytes:,}")
        else:
            try:
                now = sha256_file(path)
            except InputError as error:
                findings.mismatch(f"{at}{name}", str(error))
                continue
            if now != file.sha256:
                findings.mismatch(f"{at}{name}", f"sha256 {now[:16]}…; in {MANIFEST} {file.sha256[:16]}…")
    listed = {*manifest.files, MANIFEST, UNFINISHED}
    for path in sorted(stage.rglob("*")):
        name = given_text(path.relative_to(stage).as_posix())
        if path.is_file() and not path.name.startswith(".") and name not in listed:
            findings.mismatch(f"{at}{name}", f"not among the files of its stage ({MANIFEST})")
    return gone
