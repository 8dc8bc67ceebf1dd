"""The two routes to the singular values, and BLAS threads: what they cost, in processor seconds.

python benchmarks/routes.py

One 4096 x 14336 module of each rank: Gram products and an eigenproblem against QR of both factors and an SVD of the
core. Then 14 modules of r = 64, spread over our threads with one BLAS thread each, and one after the other with BLAS
left to use as many as there are processors.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from processes import machine
from threadpoolctl import threadpool_limits

from gradience.blas import processors, worker_threads
from gradience.spectra import (
    Blocks,
    array_blocks,
    gram,
    spectrum,
    spectrum_from_grams,
    spectrum_from_triangles,
    triangle,
)

ROWS, COLUMNS = 14336, 4096
RANKS = (8, 16, 64, 256)
MODULES = 14


def factors(rank: int, seed: int = 0) -> tuple[Blocks, Blocks]:
    """Aᵀ and B as trained ones look: A as PEFT starts it, B with a falling spectrum; blocks that stay in cache."""
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((COLUMNS, rank)) / np.sqrt(3 * COLUMNS)
    b = generator.standard_normal((ROWS, rank)) * 0.01 * np.arange(1, rank + 1) ** -0.8
    height = max(1, 2**17 // rank)
    return array_blocks(a, height), array_blocks(b, height)


def cost(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Median of five."""
    times = []
    for _ in range(5):
        start = clock()
        work()
        times.append(clock() - start)
    return median(times)


def routes() -> None:
    print("| r | gram ms | qr ms | ratio | bound, gram | bound, qr | largest difference of σ / σ₁ |")
    print("|---|---|---|---|---|---|---|")
    for rank in RANKS:
        a, b = factors(rank)
        with threadpool_limits(limits=1, user_api="blas"):
            fast = cost(lambda a=a, b=b: spectrum_from_grams(gram(a), gram(b)))
            slow = cost(lambda a=a, b=b: spectrum_from_triangles(triangle(a), triangle(b)))
            by_gram = spectrum_from_grams(gram(a), gram(b))
            by_qr = spectrum_from_triangles(triangle(a), triangle(b))
        assert by_gram is not None
        apart = float(np.abs(by_gram.scaled() - by_qr.scaled()).max() / by_qr.scaled()[0])
        print(
            f"| {rank} | {1e3 * fast:.1f} | {1e3 * slow:.1f} | {slow / fast:.1f} | {by_gram.error_bound:.1e} | "
            f"{by_qr.error_bound:.1e} | {apart:.1e} |"
        )


def threads() -> None:
    modules = [factors(64, seed) for seed in range(MODULES)]

    def ours() -> None:
        with worker_threads() as pool:
            list(pool.map(lambda pair: spectrum(*pair), modules))

    def theirs() -> None:
        with threadpool_limits(limits=processors(), user_api="blas"):
            for pair in modules:
                spectrum(*pair)

    print("\n| | wall s | cpu s |\n|---|---|---|")
    for name, work in (
        (f"{processors()} threads of ours, one BLAS thread each", ours),
        (f"one after the other, {processors()} BLAS threads", theirs),
    ):
        print(f"| {name} | {cost(work, time.perf_counter):.3f} | {cost(work):.3f} |")


if __name__ == "__main__":
    print(f"{ROWS} x {COLUMNS} modules, float64; {machine()}\n")
    routes()
    threads()
