"""A 7B-shaped adapter (Mistral-7B, seven projections x 32 layers, bf16), r = 64 to 16: compress against its floor.

python benchmarks/compress_7b.py [--rank 64] [--to 16] [--runs 5]

The floor: start Python with numpy, read the bytes, hash them, one float64 Gram product of each factor (audit_floor.py),
and write a file of the size of the result, synced. The commands run in turn, whole processes, medians.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from processes import compare, machine, table
from synthetic import MISTRAL_7B, compressing, module_shapes, write_adapter

WRITE = """
import os, sys
with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb") as target:
    while piece := source.read(4 * 2**20):
        target.write(piece)
    target.flush()
    os.fsync(target.fileno())
"""


def main() -> None:
    options = compressing(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = write_adapter(scratch / "adapter", module_shapes(MISTRAL_7B, 32), options.rank)
        weights = folder / "adapter_model.safetensors"
        out = scratch / "out"
        gradience = [sys.executable, "-m", "gradience", "compress"]
        compress = [*gradience, str(folder), "--output", str(out), "--force", "--quiet"]
        uniform = [*compress, "--rank", str(options.to)]
        subprocess.run(uniform, check=True)
        written = out / "adapter_model.safetensors"
        copy = written.rename(scratch / "copy.safetensors")
        floor = str(Path(__file__).with_name("audit_floor.py"))
        costs = compare(
            {
                "floor of an audit, as one writes it down": [sys.executable, floor, str(weights), "--plain"],
                "floor of an audit, as well as we can": [sys.executable, floor, str(weights)],
                "writing the result": [sys.executable, "-c", WRITE, str(copy), str(scratch / "again")],
                f"gradience compress --rank {options.to}": uniform,
                "gradience compress --reduction 0.75": [*compress, "--reduction", "0.75"],
                "gradience compress --energy 0.9": [*compress, "--energy", "0.9"],
            },
            options.runs,
        )
        sizes = f"{weights.stat().st_size / 1e6:.0f} MB to {copy.stat().st_size / 1e6:.0f} MB"
    print(f"Mistral-7B shapes, r = {options.rank} to {options.to}, {sizes}; {machine()}\n")
    print(table(costs, "floor of an audit, as one writes it down"))
    names = list(costs)
    for which in names[:2]:
        base = costs[which].wall + costs[names[2]].wall
        print(f"\n{names[3]} / ({which} + {names[2]}): {costs[names[3]].wall / base:.2f}")


if __name__ == "__main__":
    main()
