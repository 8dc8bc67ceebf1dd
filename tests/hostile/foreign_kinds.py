"""Adapters of other formats than PEFT's, as their libraries wrote them: the weights of each, and a config."""

from __future__ import annotations

from pathlib import PurePath

from hostile.kinds import BAD, TESTS, Kind, commands

FOREIGN = TESTS / "adapters" / "foreign"
SYNTAX = {".safetensors": "safetensors", ".npz": "archive", ".gguf": "archive"}
WEIGHTS = {
    "mlx-dora": "adapters.safetensors",
    "mlx-npz": "adapters.npz",
    "diffusers": "pytorch_lora_weights.safetensors",
    "kohya": "style.safetensors",
    "gguf-q8_0": "adapter.gguf",
}


def foreign() -> dict[str, Kind]:
    """Every kind, by name."""
    kinds = {}
    for name, file in WEIGHTS.items():
        files = {
            f"{BAD}/{path.name}": path.read_bytes()
            for path in (FOREIGN / name).iterdir()
            if path.name != "expected.npz"
        }
        place = f"{BAD}/{file}" if name == "kohya" else BAD
        kinds[f"weights of {name}"] = Kind(
            f"{BAD}/{file}", SYNTAX[PurePath(file).suffix], files, commands(f"audit {place} --json")
        )
    mlx = {f"{BAD}/{path.name}": path.read_bytes() for path in (FOREIGN / "mlx-npz").glob("adapter*")}
    words = commands(f"audit {BAD}", f"audit {BAD} --json")
    kinds["config of mlx"] = Kind(f"{BAD}/adapter_config.json", "json", mlx, words)
    return kinds
