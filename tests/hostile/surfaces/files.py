"""Every fault of every kind of file for every verb that reads it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hostile.faults import ANY, Fault, faults_of, mutants
from hostile.kinds import Kind, all_kinds
from hostile.sandbox import CPU_SECONDS
from hostile.surface import Input, Place, Surface

CORPUS = Path(__file__).parents[1] / "corpus"
FINDS = {
    "weights": "header",
    "adapter config": "config",
    "index of shards": "shards",
    "bench YAML": "bench_config",
    "run.jsonl": "run",
    "log of Inspect": "inspect",
    "samples of lm-eval": "lm_eval",
    "prompts in JSONL": "prompts_jsonl",
    "messages in JSONL": "messages_jsonl",
}
"""Kind of file -> folder of inputs on which its readers once failed. The suite runs all of them, and every replacement
of a file of these kinds."""


def finds(name: str) -> Iterator[Fault]:
    """Yield inputs on which a reader of this kind once failed."""
    for path in sorted((CORPUS / FINDS[name]).iterdir()) if name in FINDS else ():
        content = path.read_bytes()
        yield Fault(f"find {path.name}", ANY, lambda _, content=content: content)


def codes_of(kind: Kind, fault: Fault) -> set[int]:
    """Exit codes that fit a fault of this kind of file."""
    may_be_good = kind.tolerant or (kind.optional and fault.place is not None)
    if kind.syntax in ("yaml", "rows") and fault.name.startswith("cut"):
        may_be_good = True  # half of such a text is such a text
    if fault.name == "missing" and kind.target.endswith(("adapter_config.json", ".index.json")):
        may_be_good = True  # the weights are audited without a config, as is a single shard
    if kind.target.endswith("/bench.json") and fault.name == "link to nothing":
        may_be_good = True  # as a file that is missing: a seed without a result, and the others have theirs
    return set(fault.codes) | (set(kind.codes) if may_be_good else set())


def changed(content: bytes, change: Callable[[bytes], bytes]) -> Place:
    """Made where it is laid out: all at once would be gigabytes."""
    return lambda place: place.write_bytes(change(content))


def faulty(kinds: Mapping[str, Kind]) -> Iterator[Input]:
    """Made one after the other, for the same reason."""
    for name, kind in kinds.items():
        names = [*kind.target.split("/")[1:], "in/adapter", "in/good", "in/run"]
        known = [*finds(name)]
        for fault in (*known, *faults_of(kind.syntax, kind.content), *mutants(name)):
            target = fault.place or changed(kind.content, fault.change or bytes)
            files, codes = {**kind.files, kind.target: target}, codes_of(kind, fault)
            for number, (verb, run) in enumerate(kind.readers.items()):
                always = fault in known or bool(fault.place and name in FINDS and not number)
                case = f"{name} | {fault.name} | {verb}"
                yield Input(case, run, files, codes, CPU_SECONDS, names=names, always=always)


def surface(folder: Path) -> Surface:
    kinds = all_kinds(folder / "made")
    good = [
        Input(f"{name} | {verb}", run, kind.files, codes=kind.codes)
        for name, kind in kinds.items()
        for verb, run in kind.readers.items()
    ]
    return Surface(what="malformed files", good=good, inputs=faulty(kinds))
