"""`make conformance-vllm`: what real vLLM makes of adapters that `gradience compress` writes, on a plain CPU.

    PYTHONPATH=tests python -m conformance.vllm --vllm-python .venv-vllm/bin/python

Makes a tiny random Llama and adapters for it, asks PEFT here and vLLM in its own environment for the
log-probabilities of the next token, compares, and writes docs/conformance/vllm.json and the table in
docs/runtimes.md. Exit code 1 if any case is not as expected.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from conformance.vllm import model, record
from conformance.vllm.cases import CASES, Case, Made, Workshop
from conformance.vllm.compare import Compared, compare, furthest
from gradience.adapters.peft import open_adapter
from gradience.artifacts.compression import RuntimeVerdict
from gradience.ranks import max_lora_rank_step
from gradience.runtimes import verdicts

ROOT = Path(__file__).parents[3]
SERVE = Path(__file__).with_name("serve.py")


class Asked(NamedTuple):
    """One case, made, and what PEFT says about it. predicted: what `gradience.runtimes` says."""

    case: Case
    made: Made
    config: dict[str, Any]
    peft: model.Logprobs | None
    hotswap: Compared | None
    predicted: Mapping[str, RuntimeVerdict]
    needs: int


def main() -> int:
    """Run all cases, or those whose name contains `--only`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm-python", type=Path, required=True, help="interpreter of vLLM's environment")
    parser.add_argument(
        "--only", default="", help="run the cases whose name contains this, and write nothing"
    )
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only in case.id]
    with tempfile.TemporaryDirectory(prefix="gradience-vllm-") as scratch:
        shop = Workshop(Path(scratch))
        shop.prepare()
        base = model.logprobs(model.load_base(shop.base))
        asked = [ask_peft(shop, base, number, case) for number, case in enumerate(cases)]
        answers = [
            ask_vllm(
                arguments.vllm_python, shop, [item for item in asked if item.case.max_lora_rank == rank], rank
            )
            for rank in sorted({case.max_lora_rank for case in cases})
        ]
    served = {row["id"]: row for answer in answers for row in answer["adapters"]}
    drift = max(furthest(answer["base"], base) for answer in answers)
    rows = [row_of(item, served[item.case.id], base, scratch) for item in asked]
    for row in rows:
        say(f"{'ok  ' if row['as_expected'] else 'NOT '} {row['case']}: {row['vllm']}")
    say(f"base model without adapters, after all of them: {drift:.1e}")
    as_expected = all(row["as_expected"] for row in rows) and drift <= record.TOLERANCE
    if not arguments.only:
        record.write(ROOT, rows, answers[0]["versions"], drift)
    say(f"{sum(row['as_expected'] for row in rows)} of {len(rows)} cases as expected")
    return 0 if as_expected else 1


def say(text: str) -> None:
    """A line on the screen."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def ask_peft(shop: Workshop, base: model.Logprobs, number: int, case: Case) -> Asked:
    """Make the adapter of a case; load it with PEFT and by hotswap, unless vLLM is to refuse it."""
    made = case.make(shop, shop.root / "adapters" / str(number))
    config = json.loads((made.path / model.CONFIG).read_text(encoding="utf-8"))
    with open_adapter(made.path) as opened:
        modules = [(pair.module, pair.rank, pair.rows, pair.columns, pair.kind) for pair in opened.pairs]
    predicted = {f"{row.runtime} {row.version}": row for row in verdicts(config, modules)}
    needs = max_lora_rank_step(max(rank for _, rank, *_ in modules)) or 0
    if case.section == "refused":
        return Asked(case, made, config, None, None, predicted, needs)
    peft = model.peft_logprobs(shop.base, made.path)
    linear = all(kind == "linear" for *_, kind in modules)
    hotswap = swap(shop, base, made.path, peft, rslora=config["use_rslora"]) if linear else None
    return Asked(case, made, config, peft, hotswap, predicted, needs)


def swap(shop: Workshop, base: model.Logprobs, path: Path, peft: model.Logprobs, *, rslora: bool) -> Compared:
    """The adapter swapped in for one of rank 16, which has room for all of them, or for the rsLoRA one."""
    loaded = shop.originals["rsLoRA" if rslora else "rank 16"]
    try:
        swapped = model.hotswap_logprobs(shop.base, loaded, path)
    except (ValueError, RuntimeError) as refusal:
        return compare(peft=peft, base=base, served=None, refusal=f"{type(refusal).__name__}: {refusal}")
    return compare(peft=peft, base=base, served=swapped)


def ask_vllm(python: Path, shop: Workshop, asked: Sequence[Asked], rank: int) -> dict[str, Any]:
    """All adapters of one max_lora_rank, in one process of vLLM's environment."""
    request, answer = shop.root / f"request-{rank}.json", shop.root / f"answer-{rank}.json"
    adapters = [{"id": item.case.id, "path": str(item.made.path)} for item in asked]
    content = {
        "base": str(shop.base),
        "max_lora_rank": rank,
        "max_model_len": model.MAX_TOKENS,
        "prompts": model.PROMPTS,
        "adapters": adapters,
    }
    request.write_text(json.dumps(content), encoding="utf-8")
    say(f"vLLM, max_lora_rank {rank}: {len(adapters)} adapters")
    # -P: the folder of serve.py must not come before vLLM's own packages.
    run = subprocess.run(
        [python, "-P", SERVE, request, answer], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if run.returncode != 0:
        say(run.stdout[-6000:])
        raise SystemExit(f"vLLM failed with exit code {run.returncode}")
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def row_of(item: Asked, served: Mapping[str, Any], base: model.Logprobs, scratch: str) -> dict[str, Any]:
    """One row of the record: what was measured, and whether it is what the case and `gradience.runtimes` expect."""
    refusal = served.get("refusal", "").replace(scratch, "")
    found = compare(peft=item.peft, base=base, served=served.get("logprobs"), refusal=refusal)
    oracle = None if item.made.oracle is None or item.peft is None else furthest(item.peft, item.made.oracle)
    vllm_ok = item.case.refusal in refusal if item.case.refusal else found.outcome == "equal"
    if item.case.refusal and found.outcome != "refused":
        vllm_ok = False
    fits = item.needs <= item.case.max_lora_rank
    predicted = item.predicted["vLLM 0.32.0"].verdict if fits else "refuses"
    agrees = {"equal": "loads", "refused": "refuses"}.get(found.outcome) == predicted
    hotswap_agrees = item.hotswap is None or record.as_verdict(item.hotswap) == (
        item.predicted["PEFT hotswap 0.21.2"].verdict
    )
    oracle_ok = oracle is None or oracle <= record.TOLERANCE
    return record.row(
        item.case,
        item.made,
        item.config,
        found,
        oracle,
        item.hotswap,
        as_expected=vllm_ok and agrees and hotswap_agrees and oracle_ok,
    )


if __name__ == "__main__":
    sys.exit(main())
