"""Every kind of file that a stranger can hand us: a good one, where it lies, and what reads it.

A case stands in a folder with `in`, which nothing may change, and `out`, where results go. Paths are relative to it.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Any

import fleet_sample
from factory import CONFIG, INDEX, WEIGHTS, config, modules, safetensors
from factory import sharded as sharded_folder

from gradience.bench.config import load_config
from gradience.bench.run.stages import Stages
from gradience.bench.settings import find_config
from gradience.digests import sha256_text
from gradience.evaluate.settings import evaluate_settings
from gradience.files.records import read_records
from gradience.files.strict_yaml import read_mapping
from gradience.reports.registry import ARTIFACTS, model_of
from gradience.tasks import load as load_task
from hostile import samples

TESTS = Path(__file__).resolve().parent.parent
GOOD = "in/good"
"""A good adapter, for verbs that read two."""
BAD = "in/adapter"

Read = str | Callable[[], int | None]
"""A command as it is typed, or a function."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file.

    target: the file that is damaged; `files` has it and what lies beside it.
    syntax: safetensors, json, lines (of JSON), yaml, rows or archive; it decides which faults fit.
    readers: what reads it, under a name; commands as they are typed.
    """

    target: str
    syntax: str
    files: Mapping[str, bytes]
    readers: Mapping[str, Read]
    tolerant: bool = False
    """Whether a reader may skip what it cannot read, and say so: then a damaged file is no refusal."""
    optional: bool = False
    """Whether everything works without it."""
    codes: frozenset[int] = field(default=frozenset({0}))
    """Exit codes of the readers on the good file."""

    @property
    def content(self) -> bytes:
        """The good one."""
        return self.files[self.target]


def alone(target: str, syntax: str, content: bytes, readers: Mapping[str, Read], **more: Any) -> Kind:
    """A file that needs none beside it."""
    return Kind(target, syntax, {target: content}, readers, **more)


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")


def commands(*lines: str) -> dict[str, Read]:
    """Command lines, each under itself."""
    return {line: line for line in lines}


def folder_files(folder: Path, at: str) -> dict[str, bytes]:
    """What lies in a folder, by its place below `at`."""
    return {
        f"{at}/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def peft(at: str) -> dict[str, bytes]:
    return {f"{at}/{WEIGHTS}": safetensors(modules()), f"{at}/{CONFIG}": json.dumps(config()).encode()}


ADAPTERS = {**peft(BAD), **peft(GOOD)}
VERBS_ON_ADAPTERS = commands(
    f"audit {BAD} --layers",
    f"audit {BAD} --json --output out/audit.json",
    f"compress {BAD} --rank 2 --output out/small",
    f"compress {BAD} --reduction 0.5 --dry-run --json",
    f"compare {BAD} {GOOD}",
    f"compare {GOOD} {BAD} --json",
)


def adapters(folder: Path) -> dict[str, Kind]:
    index = folder_files(sharded_folder(folder / "sharded", {"a.safetensors": modules(1)}), BAD) | peft(GOOD)
    return {
        "weights": Kind(f"{BAD}/{WEIGHTS}", "safetensors", ADAPTERS, VERBS_ON_ADAPTERS),
        "adapter config": Kind(
            f"{BAD}/{CONFIG}", "json", ADAPTERS, VERBS_ON_ADAPTERS | commands(f"check {BAD}")
        ),
        "index of shards": Kind(f"{BAD}/{INDEX}", "json", index, VERBS_ON_ADAPTERS),
        "shard": Kind(f"{BAD}/a.safetensors", "safetensors", index, VERBS_ON_ADAPTERS),
    }


def artifacts() -> dict[str, Kind]:
    """Every JSON that we write, read again by the verbs that do so, or by the library."""
    good = samples.artifacts()
    kinds = {}
    for name in ARTIFACTS:
        path = f"in/{name}.json"
        readers = {f"{model_of(name).__name__}.read": _reading(name, path)}
        kinds[f"{name}.json"] = alone(path, "json", good[name].to_json().encode(), readers)
    seeds = {f"in/run/seed_{bench.seed}/bench.json": bench.to_json().encode() for bench in samples.seeds()}
    both = seeds | {"in/run/plan.json": good["bench_plan"].to_json().encode()}
    together = {"in/run/bench_aggregate.json": good["bench_aggregate"].to_json().encode()}
    aggregate, page = "bench aggregate in/run --output out/all", "report in/run -o out/page.html"
    known = frozenset({0, 1, 4, 8})
    return kinds | {
        "bench of a run": Kind(next(iter(both)), "json", both, commands(aggregate), codes=known),
        "plan of a run": Kind(
            "in/run/plan.json", "json", both, commands(aggregate), optional=True, codes=known
        ),
        "aggregate of a run": Kind(
            "in/run/bench_aggregate.json",
            "json",
            both | together,
            commands(page),
            optional=True,
            codes=known,
        ),
        "plan of a compression": Kind(
            "in/plan.json",
            "json",
            peft(BAD) | {"in/plan.json": samples.plan_of(peft("adapter")).to_json().encode()},
            commands(f"compress {BAD} --plan in/plan.json --output out/small"),
        ),
        "report for a page": alone(
            "in/run/evaluation.json",
            "json",
            good["evaluation"].to_json().encode(),
            commands("report in/run --output out/page.html"),
        ),
    }


def _reading(name: str, path: str) -> Read:
    model = model_of(name)

    def read() -> None:
        say(model.read(path).to_json(indent=None))

    return read


def verified() -> dict[str, Kind]:
    """The files of a whole run, each of which `verify` reads. What is damaged is a mismatch, and named."""
    files = samples.whole_run("in/run")
    names = {
        "digests": "digests.json",
        "plan": "plan.json",
        "result": "bench.json",
        "page": "bench.md",
        "audit": "audit/audit.json",
        "manifest": "probe/eval/manifest.json",
        "training report": "probe/train/training.json",
        "answers": "rewrite_control/eval/answers.records.jsonl",
        "scores": "rewrite_control/eval/scores.records.jsonl",
    }
    syntax = {".md": "rows", ".json": "json", ".jsonl": "lines"}
    return {
        f"{what} of a whole run": Kind(
            f"in/run/{name}",
            syntax[Path(name).suffix],
            files,
            commands("verify in/run", "verify in/run --json"),
            tolerant=True,
            codes=frozenset({0, 1}),
        )
        for what, name in names.items()
    }


def texts() -> dict[str, Kind]:
    yaml = Path(find_config("minilm_reviews_demo")).read_bytes()
    trl = (TESTS / "check" / "configs" / "trl.yaml").read_bytes()
    arguments = {
        "learning_rate": 2e-4,
        "num_train_epochs": 1,
        "lr_scheduler_type": "cosine",
        "bf16": True,
        "per_device_train_batch_size": 2,
        "output_dir": "runs",
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "model_type": "llama", **heads}
    base = {"architectures": ["LlamaForCausalLM"], **shape}
    beside = peft(BAD)
    return {
        "bench YAML": alone("in/config.yaml", "yaml", yaml, {"load_config": _config("in/config.yaml")}),
        "training YAML": alone(
            "in/trl.yaml",
            "yaml",
            trl,
            commands("check in/trl.yaml --verbose", "check in/trl.yaml --json"),
            codes=frozenset({0, 1}),
        ),
        "training arguments": Kind(
            "in/run/training_args.json",
            "json",
            beside | {"in/run/training_args.json": json.dumps(arguments).encode()},
            commands(
                f"check --peft-dir {BAD} --training-dir in/run",
                "check in/run/training_args.json --json",
            ),
            codes=frozenset({0, 1}),
        ),
        "config that names the architecture": Kind(
            "in/base/config.json",
            "json",
            beside | {"in/base/config.json": json.dumps(base).encode()},
            commands(f"compress {BAD} --rank 2 --base-model in/base --output out/small"),
            tolerant=True,
        ),
    }


def _config(path: str) -> Read:
    def read() -> None:
        loaded = load_config(path)
        say(json.dumps(loaded.model_dump(mode="json"), allow_nan=False))
        say(json.dumps(read_mapping(Path(path)), default=str)[:100])

    return read


def evaluations() -> dict[str, Kind]:
    """A config of `gradience evaluate`."""
    path = "in/evaluate.yaml"
    text = (
        b"adapters: [a, b]  # two\nbase_model: m\ndata: rows.jsonl\ntask: jsonl\noutput: out\nmargin: 2.5\n"
    )
    return {"evaluation YAML": alone(path, "yaml", text, {"evaluate_settings": _request(path)})}


def _request(path: str) -> Read:
    def read() -> None:
        say(repr(evaluate_settings({}, Path(path))))

    return read


def records() -> dict[str, Kind]:
    runs = TESTS / "monitor" / "runs"
    good = b"".join((runs / "good.jsonl").read_bytes().splitlines(keepends=True)[:60])
    journal = json.dumps(
        {"call": sha256_text("{}"), "initial": "b" * 64, "first_batch": "c" * 64, "numerics": NUMERICS}
    ).encode()
    stage = samples.stage_folder()
    return {
        "run.jsonl": alone(
            "in/run.jsonl",
            "lines",
            good,
            commands(
                "monitor in/run.jsonl --verbose",
                "monitor in/run.jsonl --json",
                "monitor in/run.jsonl in/run.jsonl",
            ),
            tolerant=True,
        ),
        "run.jsonl to append to": Kind(
            "out/run.jsonl",
            "lines",
            peft(BAD) | {"out/run.jsonl": good},
            commands(f"audit {BAD} --append out/run.jsonl"),
            tolerant=True,
            optional=True,
        ),
        "records": alone("in/a.records.jsonl", "lines", samples.records(), {"read_records": _records}),
        "rows in CSV": alone("in/a.csv", "rows", samples.lines("csv_rows"), _rows("in/a.csv")),
        "rows in JSONL": alone("in/a.jsonl", "lines", samples.lines("jsonl_rows"), _rows("in/a.jsonl")),
        "prompts in JSONL": alone(
            "in/a.jsonl", "lines", samples.lines("jsonl_prompts"), _counts("jsonl", scorer="number")
        ),
        "messages in JSONL": alone("in/a.jsonl", "lines", samples.lines("jsonl_messages"), _counts("chat")),
        "journal of a training": alone(
            "out/training/started.json", "json", journal, {"Journal": _journal}, optional=True
        ),
        "manifest of a stage": Kind(
            "out/probe/manifest.json", "json", stage, {"Stages.done": _stage}, tolerant=True, optional=True
        ),
    }


def _records() -> None:
    say(len(read_records("in/a.records.jsonl").records))


def _rows(path: str) -> dict[str, Read]:
    return {"classification": partial(_labels, "classification", {"file": path})}


def _labels(name: str, options: Mapping[str, str]) -> None:
    say(len(load_task(name, options).label_names))


def _counts(name: str, **options: str) -> dict[str, Read]:
    return {name: lambda: say(load_task(name, {"file": "in/a.jsonl", **options}).examples.counts)}


NUMERICS = {"device": "cpu", "threads": 1, "versions": {"torch": "2.13.0"}}


def _journal() -> None:
    from gradience.training.resume import TrainingJournal

    journal = TrainingJournal(Path("out/training/started.json"), {}, "b" * 64, NUMERICS | {"threads": 2})
    journal.resume(3)
    say("resumed")


def _stage() -> None:
    def make(folder: Path) -> None:
        (folder / "made").write_bytes(b"again")

    say(Stages(Path("out"), lambda name: lambda: None, say=say).done("probe", {"seed": 1}, make))


LOGS = TESTS / "evidence" / "logs"
LM_EVAL = LOGS / "lm_eval"


def logs() -> dict[str, Kind]:
    """Every kind, by name."""
    both = {
        f"in/{side}/{path.name}": path.read_bytes()
        for side in "ab"
        for path in (LM_EVAL / side).iterdir()
        if "_orders_" not in path.name
    }
    (samples_of_b,) = (place for place in both if place.startswith("in/b/samples"))
    (results_of_b,) = (place for place in both if place.startswith("in/b/results"))
    lm_eval = commands(
        "evidence in/a in/b --filter strict-match",
        "evidence in/a in/b --filter strict-match --json --flips 30",
    )
    scores = {"in/a.csv": samples.lines("csv_scores"), "in/b.csv": samples.lines("csv_scores")}
    lines = {"in/a.jsonl": samples.lines("jsonl_scores"), "in/b.jsonl": samples.lines("jsonl_scores")}
    inspect = {f"in/{side}.eval": (LOGS / "inspect" / f"{side}_deflated.eval").read_bytes() for side in "ab"}
    records = folder_files(LOGS / "every_eval_ever" / "a", "in/a") | folder_files(
        LOGS / "every_eval_ever" / "b", "in/b"
    )
    a, b = (
        next(place for place in records if place.startswith(f"in/{side}/") and place.endswith(".json"))
        for side in "ab"
    )
    kinds = {
        "log of Inspect": Kind(
            "in/b.eval", "archive", inspect, commands("evidence in/a.eval in/b.eval --json")
        ),
        "record of Every Eval Ever": Kind(b, "json", records, commands(f"evidence {a} {b}")),
        "samples of Every Eval Ever": Kind(
            b.replace(".json", "_samples.jsonl"),
            "lines",
            records,
            commands(f"evidence {a} {b.replace('.json', '_samples.jsonl')} --json"),
        ),
        "samples of lm-eval": Kind(samples_of_b, "lines", both, lm_eval),
        "results of lm-eval": Kind(results_of_b, "json", both, lm_eval, optional=True),
        "scores in CSV": Kind(
            "in/b.csv",
            "rows",
            scores,
            commands("evidence in/a.csv in/b.csv", "evidence in/b.csv in/a.csv --json"),
        ),
        "scores in JSON lines": Kind(
            "in/b.jsonl", "lines", lines, commands("evidence in/a.jsonl in/b.jsonl --margin 0.1 --json")
        ),
    }
    graded = frozenset({0, 1, 8})  # any grade
    return {name: replace(kind, codes=graded) for name, kind in kinds.items()}


ROWS = "in/fleet.jsonl"
EARLIER, JOURNAL = "out/fleet.jsonl", "out/fleet.jsonl.part"


def fleets() -> dict[str, Kind]:
    """Every kind, by name."""
    row = fleet_sample.fleet_row()
    rows = [row.model_copy(update={"path": BAD}), row.model_copy(update={"path": GOOD, "rank": 2})]
    content = b"".join(row.to_json(indent=None).encode() + b"\n" for row in rows)
    batch = f"compress {ROWS} --rank 2 --output out/small"
    again = f"fleet {BAD} {GOOD} --output {EARLIER}"
    earlier = Kind(
        EARLIER,
        "lines",
        ADAPTERS | {EARLIER: content},
        commands(again, f"{again} --json"),
        tolerant=True,  # a row that is missing is measured again
        optional=True,
    )
    return {
        "rows of a fleet": Kind(
            ROWS,
            "lines",
            ADAPTERS | {ROWS: content},
            commands(batch, f"{batch} --json"),
            tolerant=True,  # fewer rows are rows
            codes=frozenset({0, 4}),  # one row is outdated, the other small enough
        ),
        "rows of an earlier run of a fleet": earlier,
        "journal of a fleet": replace(earlier, target=JOURNAL, files=ADAPTERS | {JOURNAL: content}),
    }


FOREIGN = TESTS / "adapters" / "foreign"
SYNTAX = {".safetensors": "safetensors", ".gguf": "archive"}
FOREIGN_WEIGHTS = {
    "mlx-dora": "adapters.safetensors",
    "diffusers": "pytorch_lora_weights.safetensors",
    "kohya": "style.safetensors",
    "gguf-f16": "adapter.gguf",
}


def foreign() -> dict[str, Kind]:
    """Every kind, by name."""
    kinds = {}
    for name, file in FOREIGN_WEIGHTS.items():
        files = {
            f"{BAD}/{path.name}": path.read_bytes()
            for path in (FOREIGN / name).iterdir()
            if path.name != "expected.npz"
        }
        place = f"{BAD}/{file}" if name == "kohya" else BAD
        kinds[f"weights of {name}"] = Kind(
            f"{BAD}/{file}", SYNTAX[PurePath(file).suffix], files, commands(f"audit {place} --json")
        )
    mlx = {f"{BAD}/{path.name}": path.read_bytes() for path in (FOREIGN / "mlx").glob("adapter*")}
    words = commands(f"audit {BAD}", f"audit {BAD} --json")
    kinds["config of mlx"] = Kind(f"{BAD}/adapter_config.json", "json", mlx, words)
    return kinds


@cache
def all_kinds(folder: Path) -> Mapping[str, Kind]:
    """Every kind, by name. folder: an empty folder to make good files in."""
    logging.disable()
    return {
        **adapters(folder),
        **artifacts(),
        **verified(),
        **texts(),
        **evaluations(),
        **records(),
        **logs(),
        **foreign(),
        **fleets(),
    }
