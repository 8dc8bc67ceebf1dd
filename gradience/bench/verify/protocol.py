"""The plan, the config and what a result says of them: the digests that bind them to each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gradience.adapters import strict_json, strict_yaml
from gradience.bench.config.load import BenchConfig
from gradience.bench.verdict.folders import CONFIG, PLAN
from gradience.bench.verify.findings import Findings
from gradience.digests import sha256_json
from gradience.errors import InputError
from gradience.files.shared_names import values_text
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.bench_plan import BenchPlan

Values = Mapping[str, Any]
UNCOUNTED = ("seeds", "runtime", "run_type", "bench_version")
"""What runs that are counted together may differ in: no part of the protocol's digest."""


def plan_of(folder: Path) -> tuple[BenchPlan, str]:
    """Return the plan in a folder and its digest, whichever version wrote it.

    Raises InputError (`artifact-invalid` where it names no examples as well), and what `BenchPlan.read` raises.
    """
    plan = BenchPlan.read(folder / PLAN)
    missing = {"train", plan.eval_role} - {split.role for split in plan.splits}
    if missing:
        raise InputError(
            f"{folder / PLAN}: splits: no {' and no '.join(sorted(missing))} examples",
            code="artifact-invalid",
            hint="get the plan.json that the run wrote",
        )
    values = strict_json.loads(read_file(folder / PLAN, MAX_SETTINGS_BYTES), folder / PLAN, PLAN)
    return plan, sha256_json(_without_nulls(values))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def check_protocol(
    folder: Path, plan: BenchPlan, digest: str, result: Values, file: str, findings: Findings
) -> None:
    """Compare a seed's result (the values in its file) with the plan and the config of the run in `folder`."""
    planned = plan.model_dump(mode="json")
    with findings.check("plan", "L1", f"{file} follows plan.json: policy, seeds, variants, config"):
        expected = {
            "plan_digest": digest,
            "policy": planned["policy"],
            "planned_seeds": planned["seeds"],
            "smoke": planned["smoke"],
            "protocol_digest": planned["protocol_digest"],
            "data.task": planned["task"],
            "data.splits": planned["splits"],
            "data.eval_role": planned["eval_role"],
            "variants": [*planned["tests"], *_rungs(planned), *planned["controls"]],
        }
        for field, value in expected.items():
            there = _at(result, field)
            if field == "variants":
                there = [one.get("name") for one in there or ()]
            if there != value:
                findings.mismatch(file, f"{there}; in plan.json {value}", field)
        _check_config(folder, planned, result, file, findings)


def _rungs(planned: Values) -> list[str]:
    """The results of the ladder, in the plan's order."""
    return planned["ladder"]["names"] if planned["ladder"] else []


def _check_config(folder: Path, planned: Values, result: Values, file: str, findings: Findings) -> None:
    config = _config(folder, result)
    if config is None:
        findings.mismatch(file, "it is not the digest of `config`", "config_digest")
        return
    parts = {key: value for key, value in config.items() if key not in UNCOUNTED}
    if sha256_json(parts | {"smoke": result.get("smoke")}) != planned["protocol_digest"]:
        findings.mismatch(PLAN, f"it is not that of the config in {file}", "protocol_digest")
    for field, value in {"policy": planned["policy"], "seeds": planned["seeds"]}.items():
        if config.get(field) != value:
            findings.mismatch(PLAN, f"{value}; in the config {config.get(field)}", field)


def _config(folder: Path, result: Values) -> Values | None:
    """The config whose digest the result bears: the one in it, or config.yaml, where paths stand whole."""
    recorded, digest = result.get("config"), result.get("config_digest")
    if isinstance(recorded, Mapping) and sha256_json(recorded) == digest:
        return recorded
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        values = strict_yaml.loads(read_file(path, MAX_SETTINGS_BYTES), path)
        config = BenchConfig.model_validate(values).model_dump(mode="json")
    except (InputError, ValidationError):
        return None
    return config if sha256_json(config) == digest and values_text(config) == recorded else None


def _at(values: Values, field: str) -> Any:
    value: Any = values
    for key in field.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
