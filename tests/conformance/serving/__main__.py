"""What real runtimes make of adapters that `gradience compress` writes, on a plain CPU.

    PYTHONPATH=tests python -m conformance.serving vllm --python .venv-vllm/bin/python
    PYTHONPATH=tests python -m conformance.serving llama.cpp --python …/bin/python --source …/llama.cpp

Makes a tiny random Llama and adapters for it, asks PEFT here and the runtime in its own environment for the
log-probabilities of the next token, compares, and writes docs/conformance/*.json and a table in docs/runtimes.md.
Exit code 1 if any case is not as expected. (`make conformance-vllm`, `make conformance-llama-cpp`)
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from conformance.serving import model, record
from conformance.serving.cases import CASES, Case, Workshop
from conformance.serving.compare import TOLERANCE, Compared, compare, furthest
from conformance.serving.llama_cpp_server import LlamaCpp
from conformance.serving.served import Asked, Reply, Server, say
from conformance.serving.vllm_server import Vllm
from gradience.adapters.peft import open_adapter
from gradience.runtimes import verdicts
from gradience.runtimes.table import RUNTIMES
from gradience.runtimes.written import Module, Written

ROOT = Path(__file__).parents[3]


def main() -> int:
    """Run all cases, or those whose name contains `--only`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runtime", choices=("vllm", "llama.cpp"))
    parser.add_argument("--python", type=Path, required=True, help="interpreter of the runtime's environment")
    parser.add_argument("--source", type=Path, help="llama.cpp's source, for its converters")
    parser.add_argument(
        "--only", default="", help="run the cases whose name contains this, and write nothing"
    )
    given = parser.parse_args()
    server: Server = Vllm(given.python) if given.runtime == "vllm" else LlamaCpp(given.python, given.source)
    cases = [
        case for case in CASES if given.only in case.id and not (case.claimed and given.runtime != "vllm")
    ]
    with tempfile.TemporaryDirectory(prefix="gradience-serving-") as scratch:
        shop = Workshop(Path(scratch))
        shop.prepare()
        base = model.logprobs(model.load_base(shop.base))
        asked = [ask_peft(shop, base, number, case) for number, case in enumerate(cases)]
        served = server.serve(shop, asked)
        rows = [row_of(server, item, served.replies[item.case.id], base, shop) for item in asked]
    for row in rows:
        say(f"{'ok  ' if row['as_expected'] else 'NOT '} {row['case']}: {row['outcome']}")
    drift = max(furthest(found, base) for found in served.bases)
    say(f"base model without adapters, after all of them: {drift:.1e}")
    say(f"{sum(row['as_expected'] for row in rows)} of {len(rows)} cases as expected")
    if not given.only:
        record.write(ROOT, server.name, server.slug, rows, served.versions, drift)
    return 0 if all(row["as_expected"] for row in rows) and drift <= TOLERANCE else 1


def ask_peft(shop: Workshop, base: model.Logprobs, number: int, case: Case) -> Asked:
    """Make the adapter of a case; load it with PEFT, and swap it in where it only has linear layers."""
    made = case.make(shop, shop.root / "adapters" / str(number))
    config = json.loads((made.path / model.CONFIG).read_text(encoding="utf-8"))
    with open_adapter(made.path) as opened:
        modules = tuple(
            Module(pair.module, pair.rank, pair.rows, pair.columns, pair.kind) for pair in opened.pairs
        )
    predicted = {f"{row.runtime} {row.version}": row for row in verdicts(config, modules)}
    if case.claimed:
        return Asked(case, made, config, modules, None, None, predicted)
    peft = model.peft_logprobs(shop.base, made.path)
    swappable = case.section != "refused" and all(module.kind == "linear" for module in modules)
    hotswap = swap(shop, base, made.path, peft, rslora=config["use_rslora"]) if swappable else None
    return Asked(case, made, config, modules, peft, hotswap, predicted)


def swap(shop: Workshop, base: model.Logprobs, path: Path, peft: model.Logprobs, *, rslora: bool) -> Compared:
    """The adapter swapped in for one of rank 16, which has room for all of them, or for the rsLoRA one."""
    loaded = shop.originals["rsLoRA" if rslora else "rank 16"]
    try:
        swapped = model.hotswap_logprobs(shop.base, loaded, path)
    except (ValueError, RuntimeError) as refusal:
        return compare(peft=peft, base=base, served=None, refusal=f"{type(refusal).__name__}: {refusal}")
    return compare(peft=peft, base=base, served=swapped)


def row_of(server: Server, item: Asked, reply: Reply, base: model.Logprobs, shop: Workshop) -> dict[str, Any]:
    """One row of the record: what was measured, and whether `gradience.runtimes` and the case expect it."""
    found = compare(
        peft=item.peft, base=base, served=reply.logprobs, refusal=reply.refusal.replace(str(shop.root), "")
    )
    dense = None if item.made.oracle is None or item.peft is None else furthest(item.peft, item.made.oracle)
    predicted = "refuses" if server.refuses_here(item) else item.predicted[server.table].verdict
    by_rule = None
    if predicted == "wrong scale" and reply.logprobs is not None:
        by_rule = furthest(reply.logprobs, as_the_rule_says(server, item, shop))
    as_expected = (
        record.as_verdict(found) == predicted
        and (
            item.hotswap is None
            or record.as_verdict(item.hotswap) == item.predicted["PEFT hotswap 0.21.2"].verdict
        )
        and (server.name != "vLLM" or item.case.refusal in found.refusal)
        and all(value is None or value <= TOLERANCE for value in (dense, by_rule))
    )
    return record.row(item, found, dense, by_rule, as_expected=as_expected)


def as_the_rule_says(server: Server, item: Asked, shop: Workshop) -> model.Logprobs:
    """Log-probabilities with the scales that `gradience.runtimes` says this runtime uses."""
    runtime = next(row for row in RUNTIMES if f"{row.name} {row.version}" == server.table)
    adapter = Written(item.config, item.modules)
    scales = {module.name: runtime.scale(adapter, module) for module in item.modules}
    updates = model.updates_of(item.made.path)
    return model.dense_logprobs(
        shop.base, {name: (scales[name], *factors) for name, (_, *factors) in updates.items()}
    )


if __name__ == "__main__":
    sys.exit(main())
