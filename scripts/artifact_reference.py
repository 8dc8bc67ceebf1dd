"""The tables of docs/reference/files.md: what each artifact is, who writes it, and its first keys.

Nested keys, their types and required keys are in the schema that each section links to.
"""

import json
from typing import Any

from gradience.cli.setup import schema_text
from gradience.reports.registry import ARTIFACTS

WRITTEN_BY = {
    "audit": "`gradience audit --output audit.json` writes it, `--json` prints it. [How to read it](../audit.md)",
    "compression": "`gradience compress` writes it beside the smaller adapter."
    " [How to read it](../compress.md#report)",
    "compression_plan": "`gradience compress --dry-run --json` prints it, `--plan` reads it."
    " [Editing a plan](../compress.md#editing-a-plan)",
    "calibration": "`gradience calibrate` writes it into the metadata of its file, `--json` prints it."
    " [How to read it](../calibrate.md)",
    "calibration_forecast": "`gradience calibrate --dry-run --json` prints it. [Cost](../calibrate.md#cost-and-limits)",
    "distill": "`gradience distill` writes it beside the distilled adapter. [How to read it](../distill.md)",
    "distill_forecast": "`gradience distill --dry-run --json` prints it. [Cost](../distill.md#cost-and-limits)",
    "conversion": "`gradience convert --json` prints it. [How to read it](../convert.md)",
    "comparison": "`gradience compare A B --json` prints it. [How to read it](../compare.md)",
    "merge": "`gradience merge` writes it beside the merged adapter."
    " [How to read it](../merge.md#what-the-report-says)",
    "fleet": "`gradience fleet --json` prints it. [How to read it](../fleet.md)",
    "fleet_compression": "`gradience compress fleet.jsonl` writes it into the folder of the batch."
    " [How to read it](../fleet.md#all-adapters-to-one-rank)",
    "fleet_row": "`gradience fleet --output fleet.jsonl` writes one per line. [How to read it](../fleet.md#the-rows)",
    "evidence": "`gradience evidence A B --json` prints it. [How to read it](../evidence.md)",
    "evaluation": "`gradience evaluate` writes it. [How to read it](../evaluate.md)",
    "evaluation_forecast": "`gradience evaluate --dry-run --json` prints it."
    " [How to read it](../evaluate.md#before-the-run)",
    "evaluation_sets": "`gradience evaluate` writes it for several data sets, and `gradience shrink --over strength`."
    " [How to read it](../evaluate.md#several-data-sets)",
    "evaluation_plan": "`gradience evaluate` writes it as plan.json before several data sets are evaluated."
    " [What a plan fixes](../evaluate.md#several-data-sets)",
    "shrink": "`gradience shrink` writes it. [How to read it](../shrink.md)",
    "shrink_plan": "`gradience shrink` writes it as plan.json before anything is evaluated."
    " [What a plan fixes](../shrink.md#the-plan)",
    "shrink_forecast": "`gradience shrink --dry-run --json` prints it."
    " [How to read it](../shrink.md#your-examples)",
    "kept_records": "`gradience evaluate` and `gradience shrink` write it beside the records."
    " [Reused records](../evaluate.md#files)",
    "ledger": "`gradience evaluate` and `gradience shrink` write it to `.gradience/` beside their output folders."
    " [Repeated tests](../evaluate.md#repeated-tests)",
    "monitor": "`gradience monitor --json` prints it. [How to read it](../train_and_monitor.md)",
    "check": "`gradience check --json` prints it. [The rules](check_rules.md)",
    "bench": "`gradience bench run` writes one for each seed. [The protocol](../bench.md)",
    "bench_aggregate": "`gradience bench run` with several seeds and `gradience bench aggregate` write it."
    " [The protocol](../bench.md)",
    "bench_plan": "`gradience bench run` writes it before anything is trained. [The protocol](../bench.md)",
    "bench_forecast": "`gradience bench run --dry-run --json` prints it. [How to read it](../bench.md#dry-run)",
    "bench_status": "`gradience bench status --json` prints it. [How to read it](../scale.md#how-stages-run)",
    "digests": "`gradience bench run`, `gradience bench aggregate` and `gradience evaluate` write it last."
    " [How to verify](../verify.md)",
    "verification": "`gradience verify --json` prints it. [How to verify](../verify.md)",
    "training": "Bench writes it beside each adapter that it trains. [Guarantees of a training run](training.md)",
    "stage": "Bench writes it last in each finished stage. [Resuming](../bench.md#resuming)",
}
"""Name of the artifact -> who writes it, and where it is explained."""


def artifact_reference() -> str:
    """Return a section of Markdown for each artifact, named as `gradience schema` names it."""
    return "\n\n".join(_section(name) for name in ARTIFACTS)


def _section(name: str) -> str:
    schema = json.loads(schema_text(name))
    return (
        f"### {name}\n\n{_cell(schema['description'])} {WRITTEN_BY[name].removesuffix('.')}."
        f" All keys: [{name}.schema.json](../schemas/{name}.schema.json).\n\n{key_table(schema)}"
    )


def key_table(model: dict[str, Any]) -> str:
    """Return a table of the keys of an object in a schema; those that their names explain stand in a line below it."""
    keys = model["properties"]
    rows = [
        f"| `{key}` | {type_text(field)} | {_cell(field['description'])} |"
        for key, field in keys.items()
        if field.get("description")
    ]
    plain = ", ".join(f"`{key}`" for key, field in keys.items() if not field.get("description"))
    table = "\n".join(["| key | type | meaning |", "|---|---|---|", *rows]) if rows else ""
    return "\n\n".join(part for part in (table, plain and f"Further keys: {plain}.") if part)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def type_text(field: dict[str, Any]) -> str:
    """A JSON Schema type in words: `number or null`, `list of Finding`."""
    if "$ref" in field:
        return str(field["$ref"].rsplit("/", maxsplit=1)[1])
    if "anyOf" in field:
        return " or ".join(type_text(option) for option in field["anyOf"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "prefixItems" in field:
        return "[" + ", ".join(type_text(item) for item in field["prefixItems"]) + "]"
    if field.get("type") == "array":
        return f"list of {type_text(field['items'])}"
    if field.get("type") == "object":
        values = field["additionalProperties"]
        return "map" if values is True else f"map to {type_text(values)}"
    return str(field.get("type", "any JSON value"))
