"""Memory and time of the audit at both ends: a 70B-shaped adapter, and one of 100,000 small tensors.

python benchmarks/audit_large.py [--runs 3]

Prints seconds per GB beside the 7B-shaped adapter of audit_7b.py, in the same rounds: time should follow the bytes.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from processes import compare, machine
from synthetic import LLAMA_70B, MISTRAL_7B, module_shapes, small_modules, write_adapter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folders = {
            "7B shapes, r = 16": write_adapter(root / "7b", module_shapes(MISTRAL_7B, 32), 16),
            "70B shapes, r = 16": write_adapter(root / "70b", module_shapes(LLAMA_70B, 80), 16),
            "25,000 small tensors, r = 8": write_adapter(root / "25k", dict(small_modules(12_500)), 8),
            "100,000 small tensors, r = 8": write_adapter(root / "100k", dict(small_modules(50_000)), 8),
        }
        commands = {
            name: [sys.executable, "-m", "gradience", "audit", str(folder), "--json"]
            for name, folder in folders.items()
        }
        costs = compare(commands, options.runs)
        print(f"gradience audit DIR --json, whole processes; {machine()}\n")
        print("| adapter | MB | wall s | cpu s | peak MB | cpu s per GB | cpu ms per tensor |")
        print("|---|---|---|---|---|---|---|")
        tensors = {"7B": 448, "70": 1120, "25": 25_000, "10": 100_000}
        for name, cost in costs.items():
            size = (folders[name] / "adapter_model.safetensors").stat().st_size
            number = tensors[name[:2]]
            print(
                f"| {name} | {size / 1e6:.0f} | {cost.wall:.2f} | {cost.cpu:.2f} | {cost.peak_mb:.0f} "
                f"| {cost.cpu / size * 1e9:.2f} | {1e3 * cost.cpu / number:.3f} |"
            )


if __name__ == "__main__":
    main()
