"""r = 64 to r = 16 on the seven projections of a Mistral-7B layer: against PEFT's conversion and kohya's resize.

python benchmarks/compress_vs_peft.py [--rank 64] [--to 16] [--runs 5] [--shapes 4]

One module of every shape, on single Linear layers in float32, with all threads for the dense methods:
ours   audit, plan and write_compressed on an adapter folder with this one module, from disk to disk (one thread)
PEFT   peft.tuners.lora.conversion.convert_to_lora: ΔW = s·B·A, torch.linalg.svd(ΔW, full_matrices=False)
kohya  networks/resize_lora.py of sd-scripts: torch.linalg.svd(B·A), which makes full matrices, then a product with
       the singular values

Ours is a median over the runs; the dense methods take seconds to minutes and run once. A layer has two modules of
three of the shapes and one of the fourth: that is how the sum counts them.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.conversion import convert_to_lora
from processes import machine
from safetensors.torch import load_file, save_file
from synthetic import MISTRAL_7B, compressing, write_adapter

from gradience import audit_adapter
from gradience.adapters.formats import open_adapter
from gradience.compress.adapter import write_compressed
from gradience.compress.settings import WritingSettings
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToRank


class Row(NamedTuple):
    """One shape: seconds of each method, and the relative error that each leaves."""

    rows: int
    columns: int
    count: int
    seconds: dict[str, float]
    errors: dict[str, float]


def timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def ours(folder: Path, rank: int, runs: int) -> tuple[float, float]:
    def work() -> float:
        plan = plan_compression(audit_adapter(folder), ToRank(rank))
        return write_compressed(
            open_adapter(folder), plan, folder.with_name("out"), WritingSettings(force=True)
        ).measured_error

    work()
    results = [timed(work) for _ in range(runs)]
    return median(seconds for seconds, _ in results), results[0][1]


def measure(rows: int, columns: int, count: int, options: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_adapter(Path(scratch) / "in", {"proj": (rows, columns)}, options.rank)
        stored = load_file(folder / "adapter_model.safetensors")
        # In float32, so that nobody pays for a conversion of types.
        save_file(
            {name: tensor.float() for name, tensor in stored.items()}, folder / "adapter_model.safetensors"
        )
        a, b = (stored[f"base_model.model.proj.lora_{side}.weight"].float() for side in "AB")
        seconds, errors = {}, {}
        seconds["ours"], errors["ours"] = ours(folder, options.to, options.runs)
    scale = 2.0
    delta = scale * (b @ a)
    norm = frobenius(delta)

    model = torch.nn.Sequential()
    model.add_module("proj", torch.nn.Linear(columns, rows, bias=False))
    adapted = get_peft_model(
        model, LoraConfig(r=options.rank, lora_alpha=scale * options.rank, target_modules=["proj"])
    )
    layer = adapted.base_model.model.proj
    layer.lora_A["default"].weight.data.copy_(a)
    layer.lora_B["default"].weight.data.copy_(b)
    seconds["PEFT"], (_, state) = timed(partial(convert_to_lora, adapted, rank=options.to))
    new_a, new_b = (next(tensor for name, tensor in state.items() if f"lora_{side}" in name) for side in "AB")
    errors["PEFT"] = frobenius(delta - new_b @ new_a) / norm
    del adapted, layer, model

    seconds["kohya"], (new_a, new_b) = timed(partial(resized, a, b, options.to))
    errors["kohya"] = frobenius(delta - scale * (new_b @ new_a)) / norm
    return Row(rows, columns, count, seconds, errors)


def frobenius(matrix: torch.Tensor) -> float:
    """Summed in double precision: 59 million squares in float32 are good to four digits."""
    return float(torch.linalg.norm(matrix, dtype=torch.float64))


def resized(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the resize script does to a linear layer, written from its description: full SVD of the dense product."""
    left, values, right = torch.linalg.svd(b @ a)
    return right[:rank], left[:, :rank] @ torch.diag(values[:rank])


def main() -> None:
    parser = compressing(__doc__)
    parser.add_argument(
        "--shapes", type=int, default=4, help="how many of the four shapes, the smallest first"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Converting a PEFT adapter to LoRA")
    counts = Counter(MISTRAL_7B.values())
    shapes = sorted(counts, key=lambda shape: (shape[0] * shape[1], shape[1]))[: options.shapes]
    print(
        f"r = {options.rank} to {options.to}, float32, {torch.get_num_threads()} threads for torch; {machine()}\n"
    )
    print("| ΔW | modules | ours s | PEFT s | kohya s | PEFT / ours | kohya / ours | errors |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for shape in shapes:
        row = measure(*shape, counts[shape], options)
        rows.append(row)
        show(
            f"{row.rows} x {row.columns}",
            row.count,
            row.seconds,
            " / ".join(f"{e:.5f}" for e in row.errors.values()),
        )
    sums = {name: sum(row.count * row.seconds[name] for row in rows) for name in rows[0].seconds}
    show("sum", sum(row.count for row in rows), sums, "")


def show(name: str, count: int, seconds: dict[str, float], errors: str) -> None:
    ratios = [seconds[other] / seconds["ours"] for other in ("PEFT", "kohya")]
    times = " | ".join(f"{value:.3g}" for value in seconds.values())
    print(f"| {name} | {count} | {times} | {ratios[0]:,.0f} | {ratios[1]:,.0f} | {errors} |", flush=True)


if __name__ == "__main__":
    main()
