"""What real runtimes make of adapters that `gradience compress` writes, on a plain CPU.

    PYTHONPATH=tests python -m conformance.serving vllm --python .venv-vllm/bin/python
    PYTHONPATH=tests python -m conformance.serving llama.cpp --python …/bin/python --source …/llama.cpp

For each architecture: makes a tiny random model and adapters for it, asks PEFT here and the runtime in its own
environment for the log-probabilities after a few prompts, compares, and writes docs/conformance/*.json and a table in
docs/results/runtimes.md. What a runtime refuses is a result. Exit code 1 if something was loaded and is neither PEFT's
answer nor explained by the scale that the runtime is said to use. (`make conformance-vllm` and
`make conformance-llama-cpp`; then `make docs`, which renews what the verdicts rest on.)
"""

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from safetensors import safe_open

from conformance.serving import model, record
from conformance.serving.architectures import ARCHITECTURES, Architecture
from conformance.serving.cases import Case, Workshop, cases_of
from conformance.serving.compare import TOLERANCE, Compared, compare, furthest
from conformance.serving.llama_cpp_server import LlamaCpp
from conformance.serving.served import Asked, Reply, Served, parser_of, say
from conformance.serving.vllm_server import Vllm
from gradience.adapters.formats import open_adapter
from gradience.runtimes.verdict import LoadedAdapter, Scale, config_scale, parts_of, wrong_scale

ROOT = Path(__file__).parents[3]


def main() -> int:
    """Run what `--architecture` and `--only` leave, and write each architecture when it is done."""
    parser = parser_of(__doc__)
    parser.add_argument("runtime", choices=("vllm", "llama.cpp"))
    parser.add_argument("--source", type=Path, help="llama.cpp's source, for its converters")
    parser.add_argument("--architecture", default="", help="only the architectures whose name contains this")
    parser.add_argument("--only", default="", help="only these cases; writes nothing")
    given = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    server = Vllm(given.python) if given.runtime == "vllm" else LlamaCpp(given.python, given.source)
    odd = 0
    for architecture in ARCHITECTURES:
        if server.asks(architecture) and given.architecture in architecture.name:
            rows, drift, versions = run_architecture(server, architecture, given.only)
            strange = sum(not row["explained"] for row in rows) + (drift > TOLERANCE)
            say(
                f"{architecture.name}: {len(rows)} adapters, {strange} without an explanation; base model without "
                f"adapters, after all of them: {drift:.1e}"
            )
            if not given.only:
                record.write(ROOT, server.name, server.slug, rows, versions, drift)
            odd += strange
    return 1 if odd else 0


def run_architecture(
    server: Vllm | LlamaCpp, architecture: Architecture, only: str
) -> tuple[list[dict[str, Any]], float, Mapping[str, str]]:
    """The rows of the record, how far the base model is from PEFT's, and the versions of the runtime."""
    cases = [
        case for case in cases_of(architecture) if only in case.id and (server.claims or not case.claimed)
    ]
    with tempfile.TemporaryDirectory(prefix="gradience-serving-") as scratch:
        shop = Workshop(architecture, Path(scratch))
        shop.prepare()
        base = shop.base.logprobs(shop.base.load())
        asked = [ask_peft(shop, base, number, case) for number, case in enumerate(cases)]
        served = server.serve(shop, asked)
        rows = [row_of(server, item, served, base, shop) for item in asked]
    for row in rows:
        say(f"{'    ' if row['explained'] else 'ODD '}{architecture.name}, {row['case']}: {row['outcome']}")
    return rows, max((furthest(logprobs, base) for logprobs in served.bases), default=0.0), served.versions


def ask_peft(shop: Workshop, base: model.Logprobs, number: int, case: Case) -> Asked:
    """Make the adapter of a case; load it with PEFT, and swap it in where it only has linear layers."""
    adapter = case.make(shop, shop.root / "adapters" / str(number))
    config = json.loads((adapter.path / model.CONFIG).read_text(encoding="utf-8"))
    with open_adapter(adapter.path) as opened:
        ranks = {pair.module: pair.rank for pair in opened.pairs}
        linear = all(pair.kind == "linear" for pair in opened.pairs)
    written = LoadedAdapter(config, ranks)
    with safe_open(adapter.path / model.WEIGHTS, "numpy") as file:
        parts = parts_of(config, file.keys(), max(ranks.values()))
    if case.claimed:
        return Asked(case, adapter, written, parts, None, None)
    peft = model.peft_logprobs(shop.base, adapter.path)
    swappable = linear and case.section != "special" and not model.whole_of(adapter.path)
    hotswap = swap(shop, base, adapter.path, peft, rslora=written.settings.use_rslora) if swappable else None
    return Asked(case, adapter, written, parts, peft, hotswap)


def swap(shop: Workshop, base: model.Logprobs, path: Path, peft: model.Logprobs, *, rslora: bool) -> Compared:
    """The adapter swapped in for one of rank 16, which has room for all of them, or for the rsLoRA one."""
    loaded = shop.originals["rsLoRA" if rslora else "rank 16"]
    try:
        swapped = model.hotswap_logprobs(shop.base, loaded, path)
    except (ValueError, RuntimeError) as refusal:
        return compare(peft=peft, base=base, served=None, refusal=f"{type(refusal).__name__}: {refusal}")
    return compare(peft=peft, base=base, served=swapped)


def row_of(
    server: Vllm | LlamaCpp, item: Asked, served: Served, base: model.Logprobs, shop: Workshop
) -> dict[str, Any]:
    """One row of the record: what was measured, and whether what was loaded is PEFT's answer or the rule's."""
    reply = served.replies.get(item.case.id, Reply(None, served.not_served))
    # Without our folder, and without a set of names, whose order is another each time.
    refusal = re.sub(r"\{'[^}]*'\}", "{…}", reply.refusal.replace(str(shop.root), ""))
    comparison = compare(peft=item.peft, base=base, served=reply.logprobs, refusal=refusal)
    if served.broke:
        comparison = comparison._replace(outcome="not run")
    dense = (
        None if item.adapter.oracle is None or item.peft is None else furthest(item.peft, item.adapter.oracle)
    )
    by_rule = None
    if comparison.outcome == "differs" and wrong_scale(server.scale, item.written):
        by_rule = furthest(reply.logprobs or [], as_the_rule_says(server.scale, item, shop))
    as_ruled = by_rule is not None and by_rule <= TOLERANCE
    explained = (comparison.outcome in ("equal", "refused", "not run") or as_ruled) and (
        dense or 0.0
    ) <= TOLERANCE
    if server.name == "vLLM" and not served.not_served:
        explained &= item.case.refusal in refusal
    if item.hotswap is not None and item.hotswap.outcome != "refused":
        right = not wrong_scale(config_scale, item.written)
        explained &= item.hotswap.outcome == ("equal" if right else "differs")
    served_at_all = not served.not_served
    return record.row(
        shop.architecture.name, item, comparison, dense, by_rule, explained=explained, served=served_at_all
    )


def as_the_rule_says(scale: Scale, item: Asked, shop: Workshop) -> model.Logprobs:
    """Log-probabilities with the scales that `gradience.runtimes` says this runtime uses."""
    scales = {module: scale(item.written, module) for module in item.written.ranks}
    return model.dense_logprobs(shop.base, item.adapter.path, scales=scales)


if __name__ == "__main__":
    sys.exit(main())
