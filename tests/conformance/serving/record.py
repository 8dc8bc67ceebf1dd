"""Results of a run, as docs/conformance/*.json and as a table in docs/results/runtimes.md. Pure, but for `write`."""

import datetime
import importlib.metadata
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradience
from conformance.serving.architectures import ARCHITECTURES
from conformance.serving.compare import MOVES, TOLERANCE, Compared
from conformance.serving.served import Asked

FOLDER = Path("docs/conformance")
DOCUMENT = Path("docs/results/runtimes.md")
HERE = ("peft", "transformers", "torch")
Row = Mapping[str, Any]
LONGEST_WORDS = 400


def row(
    architecture: str,
    item: Asked,
    compared: Compared,
    dense: float | None,
    by_rule: float | None,
    *,
    explained: bool,
    served: bool,
) -> dict[str, Any]:
    """One case, ready for JSON. served: the runtime takes adapters for this architecture at all.

    Differences are rounded to two digits: the rest is noise of the CPU.
    """
    config, ranks = item.written.config, item.adapter.ranks
    return {
        "architecture": architecture,
        "case": item.case.id,
        "what": item.case.what,
        "section": item.case.section,
        "parts": sorted(item.parts),
        "r": config["r"],
        "lora_alpha": config["lora_alpha"],
        "use_rslora": config["use_rslora"],
        "rank_pattern": len(config["rank_pattern"]),
        "alpha_pattern": len(config["alpha_pattern"]),
        "ranks": sorted(set(ranks.values())) if ranks else None,
        "largest_rank": item.written.largest,
        "max_lora_rank": item.case.max_lora_rank,
        "served": served,
        "outcome": compared.outcome,
        "difference": _two(compared.difference),
        "moved": _two(compared.moved),
        "refusal": compared.refusal,
        "peft": None if item.peft is None else "equal" if (compared.moved or 0) >= MOVES else "void",
        "peft_from_dense": _two(dense),
        "from_rule": _two(by_rule),
        "hotswap": None if item.hotswap is None else item.hotswap.outcome,
        "hotswap_says": "" if item.hotswap is None else item.hotswap.refusal,
        "explained": explained,
    }


def _two(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2g}")


def write(
    root: Path, name: str, slug: str, rows: Sequence[Row], versions: Mapping[str, str], drift: float
) -> None:
    """Put the rows of an architecture into the JSON, and renew the block of this runtime in the document.

    The rows of other architectures stay where they are of the same versions.
    """
    path = root / FOLDER / f"{slug}.json"
    ours = {package: importlib.metadata.version(package) for package in HERE}
    used = {**versions, **ours, "gradience": gradience.__version__}
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"versions": {}}
    kept = before if before["versions"] == used else {"cases": [], "base_after_all_adapters": 0.0}
    content = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": used,
        "tolerance": TOLERANCE,
        "moves_at_least": MOVES,
        "base_after_all_adapters": max(_two(drift) or 0.0, kept["base_after_all_adapters"]),
        "cases": merged(kept["cases"], rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(content), encoding="utf-8")
    renew(root / DOCUMENT, f"conformance-{slug}", region(name, content))


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The rows of all architectures, in the order of `ARCHITECTURES`; new ones in place of old ones."""
    renewed = {row["architecture"] for row in new}
    rows = [*new, *(row for row in old if row.get("architecture") not in renewed)]
    return [row for it in ARCHITECTURES for row in rows if row.get("architecture") == it.name]


def as_json(content: Mapping[str, Any]) -> str:
    """One line per case."""
    head = {key: value for key, value in content.items() if key != "cases"}
    cases = ",\n  ".join(json.dumps(case, ensure_ascii=False) for case in content["cases"])
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    return f'{text},\n "cases": [\n  {cases}\n ]\n}}\n'


def renew(document: Path, block: str, inner: str) -> None:
    """Replace the block between its markers in a document. Raises ValueError unless it is there once."""
    begin, end = f"<!-- {block} -->", f"<!-- /{block} -->"
    head, rest = document.read_text(encoding="utf-8").split(begin)
    _, tail = rest.split(end)
    document.write_text(f"{head}{begin}\n{inner}\n{end}{tail}", encoding="utf-8")


def region(name: str, content: Mapping[str, Any]) -> str:
    """The tables, as Markdown. One row per adapter would be hundreds: adapters that came out alike share one."""
    rows: Sequence[Row] = content["cases"]
    versions = ", ".join(f"{package} {version}" for package, version in content["versions"].items())
    served = [row for row in rows if row["served"]]
    equal = max((row["difference"] for row in rows if row["outcome"] == "equal"), default=0.0)
    ruled = max((row["from_rule"] for row in rows if row["from_rule"] is not None), default=None)
    odd = sum(not row["explained"] for row in rows)
    lines = [
        f"{content['date']}, on a CPU: {versions}. {len(rows)} adapters.",
        "",
        f"- Largest difference between {name} and PEFT where they are equal: {equal:.1e}",
        *(
            []
            if ruled is None
            else [f"- between {name} and its own scale rule where they are not: {ruled:.1e}"]
        ),
        f"- between the base model here and there, after all adapters: {content['base_after_all_adapters']:.1e}",
        f"- loaded, and neither PEFT's answer nor the rule's: {odd}",
        "",
        "| architecture | adapters | equal | another scale | otherwise wrong | refused | not run |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *_counts(rows),
        "",
        f"| {name} | architecture | adapters | max deviation from PEFT | min effect of the adapter |",
        "|---|---|---|---:|---:|",
        *_outcomes(served),
        "",
        f"| not loaded by {name} | architecture | in its own words |",
        "|---|---|---|",
        *_refusals(rows),
    ]
    return "\n".join(lines)


def _counts(rows: Sequence[Row]) -> Iterator[str]:
    for architecture, group in _grouped(rows, "architecture"):
        outcomes = Counter(row["outcome"] for row in group)
        scaled = sum(row["outcome"] == "differs" and row["explained"] for row in group)
        known = [outcomes["equal"], scaled, outcomes["refused"], outcomes["not run"]]
        cells = [len(group), *known[:2], len(group) - sum(known), *known[2:]]
        yield f"| {architecture} | {' | '.join(map(str, cells))} |"


def _outcomes(rows: Sequence[Row]) -> Iterator[str]:
    """What was loaded: the adapters of an architecture that came out alike."""
    for architecture, group in _grouped([row for row in rows if row["outcome"] != "refused"], "architecture"):
        for outcome, alike in _grouped(group, "outcome"):
            worst = max(row["difference"] for row in alike)
            moved = min(row["moved"] for row in alike)
            names = "; ".join(row["case"] for row in alike)
            yield f"| {outcome} | {architecture} | {names} | {worst:.2g} | {moved:.2g} |"


def _refusals(rows: Sequence[Row]) -> Iterator[str]:
    """Adapters that the same architectures refuse in the same words are one row."""
    refusing: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["outcome"] in ("refused", "not run"):
            case = row["case"] if row["served"] else "every adapter"
            architectures = refusing.setdefault((case, _one_line(row["refusal"])), [])
            if row["architecture"] not in architectures:
                architectures.append(row["architecture"])
    alike: dict[tuple[str, str], list[str]] = {}
    for (case, words), architectures in refusing.items():
        alike.setdefault((words, ", ".join(architectures)), []).append(case)
    for (words, names), cases in alike.items():
        yield f"| {'; '.join(cases)} | {names} | {words} |"


def _grouped(rows: Sequence[Row], key: str) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return list(groups.items())


def _one_line(words: str) -> str:
    line = re.sub(r"/(adapters|originals)/\w+", "…", " ".join(words.split()).replace("|", "\\|"))
    return line if len(line) <= LONGEST_WORDS else line[:LONGEST_WORDS].rsplit(" ", 1)[0] + " …"
