"""A 7B-shaped adapter (Mistral-7B, seven projections x 32 layers, r = 64, bf16, 336 MB): audit against its floor.

python benchmarks/audit_7b.py [--rank 64] [--runs 5]
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from processes import compare, machine, table
from synthetic import MISTRAL_7B, module_shapes, write_adapter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_adapter(Path(scratch) / "adapter", module_shapes(MISTRAL_7B, 32), options.rank)
        weights = folder / "adapter_model.safetensors"
        floor = str(Path(__file__).with_name("audit_floor.py"))
        costs = compare(
            {
                "floor, as one writes it down": [sys.executable, floor, str(weights), "--plain"],
                "floor, as well as we can": [sys.executable, floor, str(weights)],
                "gradience audit --json": [sys.executable, "-m", "gradience", "audit", str(folder), "--json"],
            },
            options.runs,
        )
        print(f"Mistral-7B shapes, r = {options.rank}, {weights.stat().st_size / 1e6:.0f} MB; {machine()}\n")
        print(table(costs, "floor, as one writes it down"))
        for floor in list(costs)[:2]:
            print(
                f"processor time: {costs['gradience audit --json'].cpu / costs[floor].cpu:.2f} of the {floor}"
            )


if __name__ == "__main__":
    main()
