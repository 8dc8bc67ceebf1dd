"""Spectra in r-space against the dense SVD of ΔW, on one module of each Mistral-7B shape (r = 64).

python benchmarks/dense_svd.py [--shapes 3]

Both run in this process with one BLAS thread; processor seconds, so that a busy machine does not favor either.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from processes import machine
from synthetic import MISTRAL_7B

from gradience.spectra import array_blocks, spectrum


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=int, default=3, help="how many shapes, the smallest first")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    shapes = sorted(set(MISTRAL_7B.values()), key=lambda shape: shape[0] * shape[1])[: options.shapes]
    print(f"r = 64, float64, one BLAS thread; {machine()}\n")
    print("| ΔW | r-space cpu s | dense SVD cpu s | ratio | largest difference of σ / σ₁ |")
    print("|---|---|---|---|---|")
    for rows, columns in shapes:
        a = generator.standard_normal((64, columns)) / np.sqrt(columns)
        b = generator.standard_normal((rows, 64)) * np.arange(1, 65) ** -0.8
        tall = np.ascontiguousarray(a.T)
        times = []
        for _ in range(5):
            start = time.process_time()
            ours = spectrum(array_blocks(tall), array_blocks(b))
            times.append(time.process_time() - start)
        start = time.process_time()
        dense = np.linalg.svd(b @ a, compute_uv=False)
        slow = time.process_time() - start
        error = float(np.abs(ours.scaled() - dense[:64]).max() / dense[0])
        quick = median(times)
        print(f"| {rows} x {columns} | {quick:.4f} | {slow:.1f} | {slow / quick:,.0f} | {error:.1e} |")


if __name__ == "__main__":
    main()
