"""How much processor time and memory `gradience fleet` takes for each adapter, against a floor, for many adapters.

python benchmarks/fleet.py --small 10000 --large 1000

Every adapter is distinct (bf16, r = 8, α = 16; made-up factors of a falling spectrum), 16 modules or 48, in 1 MB or
3 MB, and was just written, so that it lies in the page cache. Whole processes, table included; user + system
time of the process tree, so that a loaded machine changes little. The floor reads the files and takes a float64 QR of
each factor and the SVD of their product, in this process, which has started already.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from synthetic import write_adapter

RANK, SIDE = 8, 1950
FLOOR = 100
"""Adapters that the floor is measured on."""


def make(folder: Path, modules: int, number: int) -> None:
    """Write `number` adapters: one by the house's writer, the others with its header and other numbers."""
    names = {f"model.layers.{i // 4}.self_attn.{'qkvo'[i % 4]}_proj": (SIDE, SIDE) for i in range(modules)}
    first = write_adapter(folder / "a0", names, RANK)
    whole = (first / "adapter_model.safetensors").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    stored = np.frombuffer(whole, dtype=ml_dtypes.bfloat16, offset=start)
    generator = np.random.default_rng(0)
    for i in range(1, number):
        place = folder / f"a{i}"
        place.mkdir()
        # Other signs in blocks of a column's length, and shifted: another update with as falling a spectrum.
        signs = generator.choice(np.array([-1, 1], dtype=ml_dtypes.bfloat16), size=RANK * SIDE)
        words = (stored.reshape(-1, RANK * SIDE) * signs).astype(ml_dtypes.bfloat16)
        (place / "adapter_model.safetensors").write_bytes(whole[:start] + words.tobytes())
        shutil.copy(first / "adapter_config.json", place)


def fleet(folder: Path, workers: int) -> dict[str, float]:
    """Run the command on a folder; CPU seconds of the tree, wall seconds, MB of its largest process."""
    output = folder.parent / f"{folder.name}-{workers}.jsonl"
    command = [sys.executable, "-m", "gradience", "fleet", str(folder), "-o", str(output), "-q"]
    began = time.perf_counter()
    child = os.posix_spawn(
        sys.executable,
        [*command, "--root", str(folder), "--workers", str(workers)],
        {**os.environ, "OMP_NUM_THREADS": "1"},
    )
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"gradience fleet ended with {status}")
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "wall": time.perf_counter() - began,
        "mb": used.ru_maxrss / 1000,
    }


def floor(folder: Path, modules: int) -> float:
    """CPU seconds for an adapter that no fleet can do without."""
    files = [path / "adapter_model.safetensors" for path in sorted(folder.iterdir())[:FLOOR]]
    began = time.process_time()
    for file in files:
        whole = file.read_bytes()
        start = 8 + int.from_bytes(whole[:8], "little")
        factors = np.frombuffer(whole, dtype=ml_dtypes.bfloat16, offset=start).reshape(modules, 2, -1)
        for a, b in factors:
            upper_A = np.linalg.qr(a.reshape(RANK, SIDE).T.astype(np.float64), mode="r")
            upper_B = np.linalg.qr(b.reshape(SIDE, RANK).astype(np.float64), mode="r")
            np.linalg.svd(upper_B @ upper_A.T, compute_uv=False)
    return (time.process_time() - began) / len(files)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", type=int, default=10_000, help="adapters of 16 modules")
    parser.add_argument("--large", type=int, default=1_000, help="adapters of 48 modules")
    parser.add_argument("--folder", type=Path, help="where they are written (10 GB with the defaults)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        for modules, number in ((48, arguments.large), (16, arguments.small)):
            for part in (number // 10, number):
                folder = Path(name, f"{modules}-{part}")
                make(folder, modules, part)
                least = floor(folder, modules)
                for workers in (1, 2) if part == number else (2,):
                    used = fleet(folder, workers)
                    each = used["cpu"] / part
                    row = {"modules": modules, "adapters": part, "processes": workers, "cpu_ms": each * 1000}
                    row |= {"floor_ms": least * 1000, "ratio": each / least, "per_minute_and_core": 60 / each}
                    row |= {"largest_process_mb": used["mb"], "wall_s": used["wall"]}
                    print(json.dumps({key: float(f"{value:.3g}") for key, value in row.items()}), flush=True)
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
