"""What a run found, as docs/conformance/vllm.json and as the table in docs/runtimes.md. Pure, but for `write`."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.vllm.cases import Case, Made
from conformance.vllm.compare import MOVES, TOLERANCE, Compared

JSON = Path("docs/conformance/vllm.json")
DOCUMENT = Path("docs/runtimes.md")
BEGIN, END = "<!-- conformance-vllm -->", "<!-- /conformance-vllm -->"
HERE = ("peft", "transformers", "torch", "gradience")


def as_verdict(found: Compared) -> str:
    """An outcome in the words of `gradience.runtimes`."""
    return {"equal": "loads", "refused": "refuses", "differs": "wrong scale"}.get(
        found.outcome, found.outcome
    )


def row(
    case: Case,
    made: Made,
    config: Mapping[str, Any],
    found: Compared,
    oracle: float | None,
    hotswap: Compared | None,
    *,
    as_expected: bool,
) -> dict[str, Any]:
    """One case, ready for JSON. Differences are rounded to two digits: the rest is noise of the CPU."""
    return {
        "case": case.id,
        "what": case.what,
        "section": case.section,
        "r": config["r"],
        "lora_alpha": config["lora_alpha"],
        "use_rslora": config["use_rslora"],
        "rank_pattern": len(config["rank_pattern"]),
        "alpha_pattern": len(config["alpha_pattern"]),
        "ranks": sorted(set(made.ranks.values())) if made.ranks else None,
        "max_lora_rank": case.max_lora_rank,
        "vllm": found.outcome,
        "difference": _two(found.difference),
        "moved": _two(found.moved),
        "refusal": found.refusal,
        "peft_from_dense": _two(oracle),
        "hotswap": None if hotswap is None else as_verdict(hotswap),
        "hotswap_says": "" if hotswap is None else hotswap.refusal,
        "as_expected": as_expected,
    }


def _two(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2g}")


def write(root: Path, rows: Sequence[Mapping[str, Any]], vllm: Mapping[str, str], drift: float) -> None:
    """Write the JSON, and replace the region of the document between its markers."""
    versions = {
        "vllm": vllm["vllm"],
        "torch beside vllm": vllm["torch"],
        **{name: importlib.metadata.version(name) for name in HERE},
    }
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    content = {
        "date": date,
        "versions": versions,
        "tolerance": TOLERANCE,
        "moves_at_least": MOVES,
        "base_after_all_adapters": _two(drift),
        "cases": list(rows),
    }
    (root / JSON).parent.mkdir(parents=True, exist_ok=True)
    (root / JSON).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    document = root / DOCUMENT
    document.write_text(replaced(document.read_text(encoding="utf-8"), region(content)), encoding="utf-8")


def replaced(text: str, inner: str) -> str:
    """`text` with the region between the markers replaced. Raises ValueError where a marker is missing."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{inner}\n{END}{tail}"


def region(content: Mapping[str, Any]) -> str:
    """The tables, as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    rows = content["cases"]
    good = sum(row["as_expected"] for row in rows)
    loaded = [row for row in rows if row["section"] != "refused"]
    refused = [row for row in rows if row["section"] == "refused"]
    largest = max((row["difference"] for row in loaded if row["difference"] is not None), default=0.0)
    lines = [
        f"{content['date']}, on a CPU: {versions}. {good} of {len(rows)} cases as expected; largest difference between "
        f"vLLM and PEFT {largest:.1e}; the base model after all adapters {content['base_after_all_adapters']:.1e}.",
        "",
        "| adapter | r | α | patterns (r, α) | vLLM | vLLM − PEFT | PEFT − dense | moved | PEFT hotswap |",
        "|---|---:|---:|---|---|---:|---:|---:|---|",
        *(_loaded_line(row) for row in loaded),
        "",
        "| refused by vLLM | what | in its own words |",
        "|---|---|---|",
        *(_refused_line(row) for row in refused),
    ]
    return "\n".join(lines)


def _loaded_line(row: Mapping[str, Any]) -> str:
    alpha = f"{row['lora_alpha']:.6g}" + (" rsLoRA" if row["use_rslora"] else "")
    patterns = (
        f"{row['rank_pattern']}, {row['alpha_pattern']}"
        if row["rank_pattern"] or row["alpha_pattern"]
        else "–"
    )
    cells = (
        row["case"],
        row["r"],
        alpha,
        patterns,
        row["vllm"],
        _number(row["difference"]),
        _number(row["peft_from_dense"]),
        _number(row["moved"]),
        row["hotswap"] or "–",
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _refused_line(row: Mapping[str, Any]) -> str:
    words = " ".join(row["refusal"].split()).replace("|", "\\|") or f"(not refused: {row['vllm']})"
    return f"| {row['case']} | {row['what']} | {words} |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
