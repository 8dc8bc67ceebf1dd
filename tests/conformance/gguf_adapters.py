"""A GGUF LoRA, written by the library `gguf` in the layout of llama.cpp's convert_lora_to_gguf.py.

`python tests/conformance/gguf_adapters.py FOLDER` writes those that the default tests read, each with the ΔW that
follows from the factors as `gguf` itself quantizes and decodes them.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

ALPHA = 6.0
TYPES = {
    "gguf-f32": gguf.GGMLQuantizationType.F32,
    "gguf-f16": gguf.GGMLQuantizationType.F16,
}


def write(folder: Path, kind: str) -> None:
    """One folder of a kind, with `expected.npz`."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rank = 3
    writer = gguf.GGUFWriter(folder / "adapter.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    writer.add_array("general.tags", ["lora", "tiny"])
    expected = {}
    for module, (rows, columns) in {"blk.0.attn_q": (32, 64), "blk.1.ffn_down": (64, 32)}.items():
        factors = random.standard_normal((rank, columns)), random.standard_normal((rows, rank))
        decoded = []
        for side, factor in zip("ab", factors, strict=True):
            stored = gguf.quants.quantize(factor.astype(np.float32), TYPES[kind])
            writer.add_tensor(f"{module}.weight.lora_{side}", stored, raw_dtype=TYPES[kind])
            decoded.append(gguf.quants.dequantize(stored, TYPES[kind]).astype(np.float64))
        expected[module] = (ALPHA / rank * decoded[1] @ decoded[0]).astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.savez_compressed(folder / "expected.npz", **expected)


if __name__ == "__main__":
    for kind in TYPES:
        write(Path(sys.argv[1]) / kind, kind)
