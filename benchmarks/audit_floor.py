"""What no audit can do without: start Python with numpy, read the bytes, hash them, one float64 Gram per factor.

`python benchmarks/audit_floor.py FILE.safetensors` (factors alone, in bfloat16, as synthetic.py writes them)
does it as well as we can: factors decoded in blocks that stay in cache, two threads, one BLAS thread each, the hash
beside them. With `--plain` it does it as one writes it down: one step after the other, whole factors, one thread.
"""

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # two threads on two busy cores: 7 s instead of 0.8 s

import numpy as np

BLOCK = 2**17


def digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(4 * 2**20):
            digest.update(piece)
    return digest.hexdigest()


def gram(handle: int, start: int, end: int, shape: list[int], tall: bool) -> float:
    words = np.frombuffer(os.pread(handle, end - start, start), dtype="<u2").reshape(shape)
    words = words if tall else words.T
    height = BLOCK // words.shape[1]
    total = np.zeros((words.shape[1], words.shape[1]))
    for first in range(0, words.shape[0], height):
        block = (words[first : first + height].astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        total += block.T @ block
    return float(total.trace())


def plain(path: str) -> None:
    with open(path, "rb") as file:
        data = file.read()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    total = 0.0
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        words = np.frombuffer(data[start:end], dtype="<u2").reshape(entry["shape"])
        factor = (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        total += float((factor.T @ factor if ".lora_B." in name else factor @ factor.T).trace())
    print(hashlib.sha256(data).hexdigest(), total)


def main(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    length = int.from_bytes(os.pread(handle, 8, 0), "little")
    header = json.loads(os.pread(handle, length, 8))
    header.pop("__metadata__", None)
    with ThreadPoolExecutor(2) as pool:
        hashed = pool.submit(digest, path)
        jobs = [
            pool.submit(
                gram,
                handle,
                8 + length + entry["data_offsets"][0],
                8 + length + entry["data_offsets"][1],
                entry["shape"],
                ".lora_B." in name,
            )
            for name, entry in header.items()
        ]
        print(hashed.result(), sum(job.result() for job in jobs))


if __name__ == "__main__":
    (plain if "--plain" in sys.argv else main)(sys.argv[1])
