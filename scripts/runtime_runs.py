"""docs/conformance/*.json -> gradience/runtimes/runs.json, what the verdicts rest on.

The records say what every adapter did. Kept of them, per runtime and architecture: the parts of adapters that were
loaded (only the sets that no other holds), and for every refusal the parts that no loaded adapter has.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gradience.runtimes.verdict import Parts, is_general

CONFORMANCE = Path(__file__).resolve().parent.parent / "docs" / "conformance"
LONGEST_WORDS = 160
PLACED = frozenset(("bias", "full weight"))
"""Kinds of tensors of which runtimes take those of one module and refuse those of another."""
Row = Mapping[str, Any]


class Source(NamedTuple):
    """Where the runs of a runtime are. outcome: the column that says what it did; words: what it said."""

    runtime: str
    file: str
    package: str
    page: str
    outcome: str = "outcome"
    words: str = "refusal"


SOURCES = (
    Source("PEFT", "vllm.json", "peft", "docs/runtimes.md#peft", "peft"),
    Source("PEFT hotswap", "vllm.json", "peft", "docs/runtimes.md#peft", "hotswap", "hotswap_says"),
    Source("vLLM", "vllm.json", "vllm", "docs/runtimes.md#vllm"),
    Source("llama.cpp", "llama_cpp.json", "llama.cpp", "docs/runtimes.md#llamacpp"),
)


def runs_text() -> str:
    """runs.json, whole: one line per architecture."""
    return "[\n" + ",\n".join(_record_text(summary(source)) for source in SOURCES) + "\n]\n"


def _record_text(record: dict[str, Any]) -> str:
    architectures = record.pop("architectures")
    head = json.dumps(record, ensure_ascii=False).removesuffix("}")
    lines = [
        f"{json.dumps(name)}: {json.dumps(runs, ensure_ascii=False)}" for name, runs in architectures.items()
    ]
    return f'{head}, "architectures": {{\n' + ",\n".join(lines) + "\n}}"


def summary(source: Source) -> dict[str, Any]:
    """One runtime."""
    record = json.loads((CONFORMANCE / source.file).read_text(encoding="utf-8"))
    tried = [row for row in record["cases"] if row[source.outcome] not in (None, "not run")]
    architectures = dict.fromkeys(row["architecture"] for row in tried)
    return {
        "runtime": source.runtime,
        "version": record["versions"][source.package],
        "date": record["date"],
        "page": source.page,
        "architectures": {
            name: summary_of_runs([row for row in tried if row["architecture"] == name], source)
            for name in architectures
        },
    }


def summary_of_runs(rows: Sequence[Row], source: Source) -> dict[str, Any]:
    """One runtime on one architecture."""
    if not rows[0]["served"] and source.outcome == "outcome":
        return {"loads": [], "refuses": [{"parts": [], "says": short(rows[0]["refusal"])}], "wrong": []}
    loaded = [frozenset(row["parts"]) for row in rows if _loaded(row, source)]
    known: Parts = frozenset().union(*loaded)
    return {
        "loads": [sorted(parts) for parts in largest(loaded)],
        "refuses": findings((row for row in rows if _refused(row, source)), known, source),
        "wrong": findings((row for row in rows if _wrong(row, source)), known, source),
    }


def _loaded(row: Row, source: Source) -> bool:
    """With PEFT's outputs, or with exactly the scale that the runtime is known to use."""
    return row[source.outcome] == "equal" or (row[source.outcome] == "differs" and row["explained"])


def _refused(row: Row, source: Source) -> bool:
    """A refusal that is not about the max_lora_rank that vLLM happened to be started with."""
    too_high = row["largest_rank"] > row["max_lora_rank"] and row["max_lora_rank"] < 512
    return bool(row[source.outcome] == "refused" and not too_high)


def _wrong(row: Row, source: Source) -> bool:
    return row[source.outcome] in ("differs", "no effect") and not row["explained"]


def largest(sets: Iterable[Parts]) -> list[Parts]:
    """Those that no other of them holds, each once."""
    different = list(dict.fromkeys(sets))
    return [parts for parts in different if not any(parts < other for other in different)]


def findings(rows: Iterable[Row], known: Parts, source: Source) -> list[dict[str, Any]]:
    """What no loaded adapter has: as a kind of tensor or a setting where that tells them apart, else with its place.

    An adapter that differs in least comes first: one that differs in more is then known to be refused for the same.
    """
    findings: dict[Parts, str] = {}
    for row in sorted(rows, key=lambda row: len(frozenset(row["parts"]) - known)):
        new = frozenset(row["parts"]) - known
        if not new - PLACED:
            raise ValueError(
                f"{row['architecture']}, {row['case']}: adapters with the same parts were loaded"
            )
        general = frozenset(part for part in new if is_general(part)) - PLACED
        if not any(parts <= new for parts in findings):
            findings[general or new - PLACED] = short(row[source.words])
    return [{"parts": sorted(parts), "says": says} for parts, says in findings.items()]


def short(words: str) -> str:
    """What a runtime said: its first sentence, without the name of the exception and what it quotes at length."""
    line = re.sub(r"^(\w+(Error|Exception): |ERROR:[\w-]+:)", "", " ".join(words.split()))
    line = re.split(r"(?<=\.) |, \{", line)[0].rstrip(".")
    return line if len(line) <= LONGEST_WORDS else line[:LONGEST_WORDS].rsplit(" ", 1)[0] + " …"
