"""What the fuzzer feeds: each parser that a stranger can reach, as a function of a file that ends well or in a refusal.

Whatever else a target raises is a find.
"""

import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from gradience.adapters.config import read_config
from gradience.adapters.locate import locate
from gradience.adapters.patterns import PatternTable
from gradience.adapters.tensors import TensorFile
from gradience.bench.config.load import load_config
from gradience.errors import GradienceError
from gradience.evidence.base import Wanted
from gradience.evidence.formats import read_log
from gradience.files import strict_yaml
from gradience.files.records import read_records
from gradience.files.strict_json import loads
from gradience.monitor import monitor_runs
from gradience.reports.base.view import View
from gradience.reports.bench import Bench
from gradience.reports.compression import CompressionPlan
from gradience.tasks import load as load_task
from gradience.telemetry.reader import last_position

CORPUS = Path(__file__).parent / "corpus"
"""A folder for each target: what it begins with, and what it once failed on."""
LM_EVAL = Path(__file__).resolve().parent.parent / "evidence" / "logs" / "lm_eval"
KEPT_BYTES = 2048
"""No file of the corpus is larger."""


def header(path: Path) -> None:
    with TensorFile.open(path) as file:
        for name in file.entries:
            file.read_bytes(name)


def config(path: Path) -> None:
    settings = read_config(path)
    for module in ("model.layers.0.self_attn.q_proj", "lm_head"):
        settings.scale(settings.alpha_of(module), settings.rank_of(module) or 1)


def shards(path: Path) -> None:
    locate(path.parent)


def strict_json(path: Path) -> None:
    loads(path.read_bytes(), path, "text")


def patterns(path: Path) -> None:
    keys = path.read_bytes().decode("utf-8", "replace").split("\n")
    PatternTable({key: place + 1 for place, key in enumerate(keys)}).lookup("model.layers.0.self_attn.q_proj")


def yaml(path: Path) -> None:
    strict_yaml.loads(path.read_bytes(), path)


def bench_config(path: Path) -> None:
    load_config(path)


def run(path: Path) -> None:
    last_position(path)
    monitor_runs([path]).to_text(view=View(full=True))


def records(path: Path) -> None:
    read_records(path)


def bench(path: Path) -> None:
    Bench.read(path)


def plan(path: Path) -> None:
    CompressionPlan.read(path)


def rows(path: Path) -> None:
    load_task("classification", {"file": str(path)})


DATE = "2026-11-26T15-53-59.572054"


def log(path: Path) -> None:
    read_log(path, Wanted(filter="strict-match" if path.name.startswith("samples") else None))


def every_eval_ever_record(path: Path) -> None:
    samples = path.with_name("a_samples.jsonl")
    if not samples.is_file():
        samples.write_bytes(seeds("every_eval_ever")["orders"])
    read_log(path, Wanted())


def lm_eval_results(path: Path) -> None:
    (name,) = (path.name for path in (LM_EVAL / "b").glob("samples_orders_*"))
    samples = path.with_name(name)
    if not samples.is_file():
        samples.write_bytes((LM_EVAL / "b" / name).read_bytes())
    read_log(samples, Wanted())


def prompts(path: Path) -> None:
    load_task("jsonl", {"file": str(path), "scorer": "number"})


def choices(path: Path) -> None:
    load_task("jsonl", {"file": str(path), "scorer": "multiple_choice"})


def messages(path: Path) -> None:
    load_task("chat", {"file": str(path)})


TARGETS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "header": (header, "a.safetensors"),
    "config": (config, "adapter_config.json"),
    "shards": (shards, "adapter_model.safetensors.index.json"),
    "strict_json": (strict_json, "a.json"),
    "patterns": (patterns, "keys"),
    "yaml": (yaml, "a.yaml"),
    "bench_config": (bench_config, "a.yaml"),
    "run": (run, "run.jsonl"),
    "records": (records, "a.records.jsonl"),
    "bench": (bench, "bench.json"),
    "plan": (plan, "plan.json"),
    "inspect": (log, "a.eval"),
    "every_eval_ever": (log, "a_samples.jsonl"),
    "every_eval_ever_record": (every_eval_ever_record, "a.json"),
    "lm_eval": (log, f"samples_sums_{DATE}.jsonl"),
    "lm_eval_results": (lm_eval_results, f"results_{DATE}.json"),
    "scores_csv": (log, "a.csv"),
    "scores_jsonl": (log, "a.jsonl"),
    "rows_csv": (rows, "a.csv"),
    "rows_jsonl": (rows, "a.jsonl"),
    "prompts_jsonl": (prompts, "a.jsonl"),
    "choices_jsonl": (choices, "a.jsonl"),
    "messages_jsonl": (messages, "a.jsonl"),
}
"""Name -> the parser, and what its file is called."""


@cache
def folder(name: str) -> Path:
    """Where a target finds its file: in memory where that is a folder."""
    fast = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=fast if fast.is_dir() else None))


def feed(name: str, content: bytes) -> bool:
    """Give a target these bytes; whether it took them. Raises whatever is no refusal."""
    parse, file = TARGETS[name]
    path = folder(name) / file
    path.write_bytes(content)
    try:
        parse(path)
    except GradienceError as error:
        if not error.hint:
            raise AssertionError(f"no next step: {error}") from error
        return False
    return True


def seeds(name: str) -> dict[str, bytes]:
    """The corpus of a target."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).iterdir())}
