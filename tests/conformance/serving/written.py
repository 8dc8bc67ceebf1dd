"""What llama.cpp's loader makes of the adapters that `gradience convert --to gguf` writes, on a plain CPU.

    PYTHONPATH=tests python -m conformance.serving.written --python …/bin/python --source …/llama.cpp

The architectures and adapters of `conformance.serving` that the format holds, some of them stored in half precision as
well, and SmolLM2-135M (from the package index) with an adapter on every linear module. Each is converted by us, loaded
by llama.cpp, and its log-probabilities of the next token are compared with PEFT's. Writes
docs/conformance/written_gguf.json and a table in docs/results/runtimes.md. Exit code 1 where one is not loaded, or is
not PEFT's answer. (`make conformance-llama-cpp`)
"""

import datetime
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from conformance.serving import model
from conformance.serving.architectures import ARCHITECTURES, GATED, Architecture
from conformance.serving.cases import Workshop, cases_of
from conformance.serving.compare import TOLERANCE, furthest
from conformance.serving.llama_cpp_server import LlamaCpp
from conformance.serving.record import renew
from conformance.serving.served import parser_of, say
from gradience import convert_adapter
from gradience.errors import InputError

ROOT = Path(__file__).parents[3]
RECORD = Path("docs/conformance/written_gguf.json")
DOCUMENT = Path("docs/results/runtimes.md")
STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TOLERANCES = {"F32": TOLERANCE, "F16": 0.005, "BF16": 0.05}
"""By the type of the factors, with which PEFT computes in float32. The last two were set after a look: the largest
differences were 0.0017 and 0.01 on the tiny models."""
AGAIN = ("plain", "rsLoRA")
"""Cases that are stored in each type; the others as PEFT saves them, in float32."""


class Written(NamedTuple):
    """What was converted of one base.

    adapters: GGUF files by their case.   peft: the log-probabilities with each.   refused: cases that the format does
    not hold.
    """

    name: str
    base: model.Base
    root: Path
    adapters: dict[str, Path]
    peft: dict[str, model.Logprobs]
    refused: list[str]

    def add(self, case: str, adapter: Path) -> None:
        """Convert an adapter, and ask PEFT."""
        target = self.root / f"gguf-{len(self.adapters) + len(self.refused)}"
        try:
            convert_adapter(adapter, target, to="gguf", base_model=self.base.folder)
        except InputError as refusal:
            if refusal.code != "not-in-format":
                raise
            self.refused.append(case)
            return
        self.adapters[case] = target / "adapter.gguf"
        self.peft[case] = model.peft_logprobs(self.base, adapter)


def main() -> int:
    """Convert, ask, compare, and write the record and the table."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--source", type=Path, required=True, help="llama.cpp's source, for its converter of bases"
    )
    given = parser.parse_args()
    server = LlamaCpp(given.python, given.source)
    makers = [partial(of_architecture, it) for it in ARCHITECTURES if server.asks(it)]
    rows, versions = [], {}
    for make in (*makers, of_smollm2):
        with tempfile.TemporaryDirectory(prefix="gradience-written-") as scratch:
            of_base, versions = measured(server, make(Path(scratch)), Path(scratch))
        rows += of_base
        say("\n".join(map(json.dumps, of_base)))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    content = {"date": date, "versions": dict(versions), "tolerances": TOLERANCES, "rows": rows}
    (ROOT / RECORD).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    renew(ROOT / DOCUMENT, "written-gguf", table(content))
    return int(any(row["adapters"] != row["equal"] for row in rows))


def of_architecture(architecture: Architecture, scratch: Path) -> Written:
    """Every adapter that is made for a tiny random model of this architecture."""
    shop = Workshop(architecture, scratch)
    shop.prepare()
    written = Written(architecture.name, shop.base, scratch, {}, {}, [])
    for number, case in enumerate(cases_of(architecture)):
        if not case.claimed:
            written.add(case.id, case.make(shop, scratch / "adapters" / str(number)).path)
    for case, stored in product(AGAIN, STORED):
        written.add(f"{case}, {stored}", stored_as(shop.originals[case], stored))
    return written


def of_smollm2(scratch: Path) -> Written:
    """Adapters of rank 16 of a trained model whose head is its embedding: on every linear module; on that as well."""
    base = model.smollm2_base()
    written = Written("SmolLM2-135M", base, scratch, {}, {}, [])
    model.make_adapter(base, scratch / "linear", 1, r=16, lora_alpha=32, target_modules=list(GATED))
    for stored in STORED:
        written.add(f"linear, {stored}", stored_as(scratch / "linear", stored))
    for tied in ("embed_tokens", "lm_head"):
        model.make_adapter(base, scratch / tied, 1, r=16, lora_alpha=32, target_modules=[*GATED, tied])
        written.add(tied, scratch / tied)
    return written


def stored_as(adapter: Path, stored: str) -> Path:
    """A copy of an adapter in another storage type."""
    folder = adapter.with_name(f"{adapter.name}-{stored}")
    folder.mkdir()
    shutil.copy(adapter / model.CONFIG, folder)
    tensors = {name: tensor.to(STORED[stored]) for name, tensor in load_file(adapter / model.WEIGHTS).items()}
    save_file(tensors, folder / model.WEIGHTS, metadata={"format": "pt"})
    return folder


def measured(
    server: LlamaCpp, written: Written, scratch: Path
) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
    """Rows of the record, one for each storage type, and the versions: how far llama.cpp is from PEFT."""
    base = written.base.logprobs(written.base.load())
    served = server.answers(written.base, written.adapters, scratch)
    rows = []
    for stored, tolerance in TOLERANCES.items():
        cases = [case for case in written.peft if stored_type(case) == stored]
        apart = {case: difference(served.replies[case].logprobs, written.peft[case]) for case in cases}
        row = {
            "base": written.name,
            "architecture": written.base.architecture.name,
            "stored": stored,
            "adapters": len(cases),
            "equal": sum(value <= tolerance for value in apart.values()),
            "difference": max(apart.values()),
            "moved": min(furthest(written.peft[case], base) for case in cases),
            "base_difference": furthest(served.bases[0], base),
            "others": {case: value for case, value in apart.items() if value > tolerance},
        }
        rows.append(
            row | {"not_in_format": [case for case in written.refused if stored_type(case) == stored]}
        )
    return rows, served.versions


def difference(served: model.Logprobs | None, peft: model.Logprobs) -> float:
    """Largest difference; infinite where llama.cpp did not load the adapter."""
    return math.inf if served is None else furthest(served, peft)


def stored_type(case: str) -> str:
    """F32 where a case does not say otherwise."""
    return next((stored for stored in STORED if case.endswith(f", {stored}")), "F32")


def table(content: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    lines = [
        f"{content['date']}, on a CPU: {versions}.",
        "",
        "| base | factors | adapters written | loaded, PEFT's answer | max deviation from PEFT |"
        " min effect of the adapter | not in the format |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in content["rows"]:
        named = row["base"] if row["base"] != row["architecture"] else f"{row['base']}, tiny and random"
        cells = [named, row["stored"], row["adapters"], row["equal"]]
        cells += [f"{row['difference']:.1e}", f"{row['moved']:.2g}", len(row["not_in_format"])]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
