"""Cost of the audit against rank and number of modules: a table, and a plot for the documentation.

python benchmarks/audit_cost.py [--plot docs/images/audit_cost.svg]     (the plot needs matplotlib)

Processor seconds of `audit_adapter` in this process, median of three; 4096 x 4096 modules in bf16.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))

from processes import machine
from synthetic import write_adapter

from gradience.audit.adapter import audit_adapter

RANKS = (8, 16, 32, 64, 128, 256, 512)
NUMBERS = (8, 32, 128, 512)


def seconds(folder: Path) -> float:
    """Median processor seconds of one audit."""
    times = []
    for _ in range(3):
        start = time.process_time()
        audit_adapter(folder)
        times.append(time.process_time() - start)
    return median(times)


def measure(scratch: Path, rank: int, number: int) -> float:
    """Seconds for `number` modules of rank `rank`."""
    modules = {f"model.layers.{index}.self_attn.q_proj": (4096, 4096) for index in range(number)}
    folder = write_adapter(scratch / f"{rank}x{number}", modules, rank)
    measured = seconds(folder)
    (folder / "adapter_model.safetensors").unlink()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        by_rank = {rank: measure(Path(scratch), rank, 16) / 16 for rank in RANKS}
        by_number = {number: measure(Path(scratch), 16, number) for number in NUMBERS}
    print(
        f"4096 x 4096 modules, bf16; {machine()}\n\n| r | cpu ms per module | MB per module |\n|---|---|---|"
    )
    for rank, cost in by_rank.items():
        print(f"| {rank} | {1e3 * cost:.2f} | {rank * 8192 * 2 / 1e6:.2f} |")
    print("\n| modules (r = 16) | cpu s |\n|---|---|")
    for number, cost in by_number.items():
        print(f"| {number} | {cost:.3f} |")
    if options.plot:
        draw(options.plot, by_rank, by_number)


def draw(path: Path, by_rank: dict[int, float], by_number: dict[int, float]) -> None:
    """Both curves on logarithmic axes, with slope-one and slope-two guides."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gradience"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    ranks, costs = list(by_rank), [1e3 * cost for cost in by_rank.values()]
    left.loglog(ranks, costs, "o-", label="audit", base=2)
    left.loglog(
        ranks, [costs[0] * rank / ranks[0] for rank in ranks], ":", color="gray", label="∝ r (bytes)", base=2
    )
    left.loglog(
        ranks,
        [costs[-1] * (rank / ranks[-1]) ** 2 for rank in ranks],
        "--",
        color="gray",
        label="∝ r² (Gram)",
        base=2,
    )
    left.set(xlabel="rank", ylabel="CPU ms per module", title="one 4096 x 4096 module")
    left.legend()
    numbers = list(by_number)
    right.loglog(numbers, list(by_number.values()), "o-", base=2, label="audit")
    first = by_number[numbers[-1]] / numbers[-1]
    right.loglog(
        numbers, [first * number for number in numbers], ":", color="gray", base=2, label="∝ modules"
    )
    right.set(xlabel="modules", ylabel="CPU s", title="r = 16")
    right.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    print(f"\n{path}")


if __name__ == "__main__":
    main()
