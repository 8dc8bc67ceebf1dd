"""What a run found, as docs/conformance/*.json and as a table in docs/runtimes.md. Pure, but for `write`."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.serving.compare import MOVES, TOLERANCE, Compared
from conformance.serving.served import Asked

FOLDER = Path("docs/conformance")
DOCUMENT = Path("docs/runtimes.md")
HERE = ("peft", "transformers", "torch", "gradience")
Row = Mapping[str, Any]


def as_verdict(found: Compared) -> str:
    """An outcome in the words of `gradience.runtimes`."""
    return {"equal": "loads", "refused": "refuses", "differs": "wrong scale"}.get(
        found.outcome, found.outcome
    )


def row(
    item: Asked, found: Compared, dense: float | None, by_rule: float | None, *, as_expected: bool
) -> dict[str, Any]:
    """One case, ready for JSON. Differences are rounded to two digits: the rest is noise of the CPU."""
    config, ranks = item.config, item.made.ranks
    return {
        "case": item.case.id,
        "what": item.case.what,
        "section": item.case.section,
        "r": config["r"],
        "lora_alpha": config["lora_alpha"],
        "use_rslora": config["use_rslora"],
        "rank_pattern": len(config["rank_pattern"]),
        "alpha_pattern": len(config["alpha_pattern"]),
        "ranks": sorted(set(ranks.values())) if ranks else None,
        "outcome": found.outcome,
        "difference": _two(found.difference),
        "moved": _two(found.moved),
        "refusal": found.refusal,
        "peft_from_dense": _two(dense),
        "from_rule": _two(by_rule),
        "hotswap": None if item.hotswap is None else as_verdict(item.hotswap),
        "hotswap_says": "" if item.hotswap is None else item.hotswap.refusal,
        "as_expected": as_expected,
    }


def _two(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2g}")


def write(
    root: Path, name: str, slug: str, rows: Sequence[Row], versions: Mapping[str, str], drift: float
) -> None:
    """Write the JSON, and replace the block of this runtime in the document."""
    content = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {**versions, **{package: importlib.metadata.version(package) for package in HERE}},
        "tolerance": TOLERANCE,
        "moves_at_least": MOVES,
        "base_after_all_adapters": _two(drift),
        "cases": list(rows),
    }
    path = root / FOLDER / f"{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    document = root / DOCUMENT
    text = replaced(document.read_text(encoding="utf-8"), f"conformance-{slug}", region(name, content))
    document.write_text(text, encoding="utf-8")


def replaced(text: str, block: str, inner: str) -> str:
    """`text` with the block between its markers replaced. Raises ValueError unless it is there once."""
    begin, end = f"<!-- {block} -->", f"<!-- /{block} -->"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n{inner}\n{end}{tail}"


def region(name: str, content: Mapping[str, Any]) -> str:
    """The tables, as Markdown."""
    rows: Sequence[Row] = content["cases"]
    good = sum(found["as_expected"] for found in rows)
    equal = max((found["difference"] for found in rows if found["outcome"] == "equal"), default=0.0)
    versions = ", ".join(f"{package} {version}" for package, version in content["versions"].items())
    lines = [
        f"{content['date']}, on a CPU: {versions}. {good} of {len(rows)} cases as expected; largest difference between "
        f"{name} and PEFT where they are equal {equal:.1e}; the base model after all adapters "
        f"{content['base_after_all_adapters']:.1e}.",
        "",
        f"| adapter | r | α | patterns (r, α) | {name} | {name} − PEFT | {name} − rule "
        "| PEFT − dense | moved | PEFT hotswap |",
        "|---|---:|---:|---|---|---:|---:|---:|---:|---|",
        *(_line(found) for found in rows if found["outcome"] != "refused"),
        "",
        f"| refused by {name} | what | in its own words |",
        "|---|---|---|",
        *(_refused_line(found) for found in rows if found["outcome"] == "refused"),
    ]
    return "\n".join(lines)


def _line(found: Row) -> str:
    alpha = f"{found['lora_alpha']:.6g}" + (" rsLoRA" if found["use_rslora"] else "")
    patterns = (found["rank_pattern"], found["alpha_pattern"])
    numbers = [_number(found[key]) for key in ("difference", "from_rule", "peft_from_dense", "moved")]
    cells = (
        found["case"],
        found["r"],
        alpha,
        f"{patterns[0]}, {patterns[1]}" if any(patterns) else "–",
        found["outcome"],
        *numbers,
        found["hotswap"] or "–",
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _refused_line(found: Row) -> str:
    words = " ".join(found["refusal"].split()).replace("|", "\\|")
    return f"| {found['case']} | {found['what']} | {words} |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
