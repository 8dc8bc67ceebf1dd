"""Rank and scale are not changed together: a config that says another α/r is noticed, module by module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gradience.bench.run.seed import ScaleChanged, hold_scale

PROBE = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q", "v"]}
MODULES = {"layers.0.q": 8, "layers.0.v": 4}
PATTERNS = {"rank_pattern": {"^layers.0.v": 4}, "alpha_pattern": {"^layers.0.v": 8}}


def written(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(PROBE | changes))
    return folder


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "the scale of every module": ({"r": 8, "lora_alpha": 16} | PATTERNS, True),
    "alpha left as it was": ({"r": 8} | PATTERNS, False),
    "one module left behind": ({"r": 8, "lora_alpha": 16, "rank_pattern": {"^layers.0.v": 4}}, False),
    "rsLoRA with the same numbers": ({"r": 8, "lora_alpha": 16, "use_rslora": True} | PATTERNS, False),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_held(case: str, tmp_path: Path) -> None:
    changes, held = CASES[case]
    probe, adapter = written(tmp_path / "probe"), written(tmp_path / "adapter", **changes)
    if held:
        hold_scale(probe, adapter, MODULES)
        return
    with pytest.raises(ScaleChanged, match="its scale α/r differs from the probe's"):
        hold_scale(probe, adapter, MODULES)


def test_a_module_without_its_lora_has_no_scale(tmp_path: Path) -> None:
    probe, adapter = written(tmp_path / "probe"), written(tmp_path / "adapter", r=1)
    hold_scale(probe, adapter, dict.fromkeys(MODULES, 0))
