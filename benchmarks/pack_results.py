"""Copy a finished run of Bench, shrink or evaluate: what everybody reads as files, everything else in one archive.

python benchmarks/pack_results.py RUN DEST

Plan, results and aggregates are copied as they are; records, reports, manifests, audits, telemetry and logs go into
`everything.tar.xz`, of weights only a small `adapter/` that a shrink wrote, and no candidates, without the owners and
times of this machine, so that packing twice gives the same bytes.
Unpacked beside the results, the archive is the run again; tests/bench/test_kept_results.py counts it anew, and
`gradience verify DEST` unpacks it to a temporary folder.
"""

import argparse
import lzma
import shutil
import tarfile
from pathlib import Path

READ = (
    "plan.json",
    "bench.json",
    "bench.md",
    "bench_aggregate.json",
    "bench_aggregate.md",
    "digests.json",
    "rederived.json",
    "shrink.json",
    "shrink.md",
    "evaluation.json",
    "evaluation.md",
)
ARCHIVE = "everything.tar.xz"
LEFT_OUT = (".safetensors", ".lock")
CANDIDATES, ADAPTER = "candidates", "adapter"
SMALL = 2**20
"""Largest weights file of a shrink's result that is packed, in bytes."""


def pack(run: Path, target: Path) -> Path:
    """Returns the archive."""
    target.mkdir(parents=True, exist_ok=True)
    rest = []
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        inside = path.relative_to(run)
        if inside.parts[0] == CANDIDATES:
            continue
        if path.name in READ:
            copy = target / path.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        elif is_packed(path, inside):
            rest.append(path)
    archive = target / ARCHIVE
    with (
        lzma.open(archive, "wb", preset=9) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in rest:
            tar.add(path, arcname=str(path.relative_to(run)), filter=anonymous)
    return archive


def is_packed(path: Path, inside: Path) -> bool:
    """Return True for files that go into the archive. inside: their path in the run."""
    if inside.parts[0] == ADAPTER and path.suffix == ".safetensors":
        return path.stat().st_size < SMALL
    return path.suffix not in LEFT_OUT and path.name not in LEFT_OUT


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    archive = pack(options.run, options.target)
    print(f"{archive}: {archive.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
