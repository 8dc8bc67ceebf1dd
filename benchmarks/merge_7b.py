"""Two 7B-shaped adapters (Mistral-7B, seven projections x 32 layers, bf16, r = 64), merged: time and memory.

python benchmarks/merge_7b.py [--rank 64] [--runs 3] [--methods linear,svd] [--layers 32]

The floor reads both adapters with numpy, hashes them, and writes and hashes a file of the size of the result, synced:
what reading and writing the files takes. The commands run in turn, whole processes, medians.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from processes import compare, machine, table
from synthetic import MISTRAL_7B, module_shapes, write_adapter

FLOOR = """
import hashlib, os, sys
import numpy
*sources, result, target = sys.argv[1:]
for source in sources:
    digest = hashlib.sha256()
    with open(source, "rb") as file:
        while piece := file.read(4 * 2**20):
            digest.update(piece)
size = os.path.getsize(result)
digest = hashlib.sha256()
with open(result, "rb") as source, open(target, "wb") as file:
    while piece := source.read(4 * 2**20):
        file.write(piece)
        digest.update(piece)
    file.flush()
    os.fsync(file.fileno())
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--methods", default="linear,svd")
    options = parser.parse_args()
    methods = options.methods.split(",")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        shapes = module_shapes(MISTRAL_7B, options.layers)
        folders = [
            write_adapter(scratch / side, shapes, options.rank, seed=seed) for seed, side in enumerate("ab")
        ]
        weights = [str(folder / "adapter_model.safetensors") for folder in folders]
        merge = [sys.executable, "-m", "gradience", "merge", *map(str, folders), "--force", "--quiet"]
        commands, results = {}, {}
        for method in methods:
            out = scratch / method
            command = [*merge, "--method", method, "--output", str(out)]
            subprocess.run(command, check=True)
            results[method] = (out / "adapter_model.safetensors").rename(scratch / f"{method}.safetensors")
            floor = [sys.executable, "-c", FLOOR, *weights, str(results[method]), str(scratch / "again")]
            commands |= {
                f"reading and writing ({method})": floor,
                f"gradience merge --method {method}": command,
            }
        costs = compare(commands, options.runs)
        sizes = ", ".join(f"{method} {path.stat().st_size / 1e6:.0f} MB" for method, path in results.items())
    print(f"Mistral-7B shapes, {options.layers} layers, r = {options.rank}; results: {sizes}; {machine()}\n")
    names = list(costs)
    print(table(costs, names[0]))
    for floor, merged in zip(names[::2], names[1::2], strict=True):
        print(f"\n{merged} / {floor}: {costs[merged].wall / costs[floor].wall:.2f}")


if __name__ == "__main__":
    main()
