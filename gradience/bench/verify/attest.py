"""What a verification says as in-toto statements, unsigned: whoever has a key signs the folder that holds them.

`attestation.json`: predicate test-result v0.1, what the policy says of each variant.
`attestation_vsa.json`: predicate verification_summary v1 (SLSA), how far the folder was verified. The levels are ours:
a name of one's own may stand there, as long as it does not begin with `SLSA_`.
Specifications: github.com/in-toto/attestation, spec/v1 and spec/predicates/test-result.md;
slsa.dev/verification_summary/v1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradience import __version__
from gradience.artifacts.bench import Bench, Status
from gradience.artifacts.bench_aggregate import BenchAggregate
from gradience.artifacts.digests import DIGESTS
from gradience.artifacts.verification import Verification
from gradience.artifacts.whole import write_whole
from gradience.bench.verdict.folders import AGGREGATE, BENCH, CONFIG, PLAN
from gradience.digests import sha256_file
from gradience.errors import InputError, VerificationError

ATTESTATION, SUMMARY = "attestation.json", "attestation_vsa.json"
STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
VERIFICATION_SUMMARY = "https://slsa.dev/verification_summary/v1"
RESULTS: Mapping[Status, str] = {"PASS": "PASSED", "FAIL": "FAILED"}
"""Of the policy; whatever else it says is WARNED."""


def write_attestation(folder: Path, verification: Verification) -> tuple[Path, Path]:
    """Write both statements beside `digests.json`, and return where they lie.

    Raises VerificationError (`not-verified`) where something disagrees, InputError (`no-digests`, `not-a-run`).
    """
    if not verification.verified or verification.level is None:
        raise VerificationError(
            f"{folder}: not attested: it is not verified",
            code="not-verified",
            hint=f"gradience bench verify {folder} says what disagrees",
        )
    if verification.root is None or not (folder / PLAN).is_file():
        raise InputError(
            f"{folder}: not attested: there is no {DIGESTS if verification.root is None else PLAN} in it",
            code="no-digests",
            hint="name the folder of a whole run: gradience bench run with the same --config and --output",
        )
    subjects = [_subject(DIGESTS, verification.root), *_adapters(folder)]
    return (
        _write(folder / ATTESTATION, subjects, TEST_RESULT, _test_result(folder)),
        _write(folder / SUMMARY, subjects[:1], VERIFICATION_SUMMARY, _summary(folder, verification)),
    )


def _write(path: Path, subjects: list[dict[str, Any]], kind: str, predicate: dict[str, Any]) -> Path:
    statement = {"_type": STATEMENT, "subject": subjects, "predicateType": kind, "predicate": predicate}
    return write_whole(path, [json.dumps(statement, indent=2).encode() + b"\n"])


def _subject(name: str, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}


def _adapters(folder: Path) -> Iterator[dict[str, Any]]:
    """Every adapter that was evaluated, by the digest of its weights, whether they are kept or not."""
    for path in sorted((*folder.glob(BENCH), *folder.glob(f"seed_*/{BENCH}"))):
        bench = Bench.read(path)
        measured = {"probe": bench.probe} | {result.name: result.measures for result in bench.variants}
        for name, one in measured.items():
            if one is not None:
                yield _subject(f"seed {bench.seed}: {name}", one.adapter_sha256)


def _test_result(folder: Path) -> dict[str, Any]:
    several = (folder / AGGREGATE).is_file()
    result = BenchAggregate.read(folder / AGGREGATE) if several else Bench.read(folder / BENCH)
    tests: dict[str, list[str]] = {"PASSED": [], "WARNED": [], "FAILED": []}
    for variant in result.candidates:
        tests[RESULTS.get(variant.status, "WARNED")].append(variant.name)
    return {
        "result": RESULTS.get(result.status, "WARNED"),
        "configuration": [
            _subject(name, sha256_file(folder / name)) for name in (PLAN, CONFIG) if (folder / name).is_file()
        ],
        "passedTests": tests["PASSED"],
        "warnedTests": tests["WARNED"],
        "failedTests": tests["FAILED"],
    }


def _summary(folder: Path, verification: Verification) -> dict[str, Any]:
    levels = ("L1", "L2", "L3")
    reached = levels[: levels.index(verification.level or "L1") + 1]
    return {
        "verifier": {"id": f"pkg:generic/gradience@{__version__}", "version": {"gradience": __version__}},
        "timeVerified": verification.run.started,
        "resourceUri": f"pkg:generic/gradience-bench-run?checksum=sha256:{verification.root}",
        "policy": {"uri": PLAN, "digest": {"sha256": sha256_file(folder / PLAN)}},
        "verificationResult": "PASSED",
        "verifiedLevels": [f"GRADIENCE_BENCH_{level}" for level in reached],
    }
