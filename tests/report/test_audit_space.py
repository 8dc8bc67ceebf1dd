"""Disk space is shown if the file has more than 16-bit LoRA weights; the bytes add up to the file."""

from __future__ import annotations

import numpy as np
from factory import PREFIX, adapter, config, modules, stored

from gradience import audit_adapter
from gradience.cli.demo import example_adapter
from gradience.reports.audit import DOCUMENT, space_blocks
from gradience.reports.base import terminal


def section(folder):
    report = audit_adapter(folder)
    return report, terminal.render(space_blocks(report, DOCUMENT), width=100)


def test_a_saved_embedding_and_32_bits_are_told_with_what_16_would_take(tmp_path):
    head = {f"{PREFIX}lm_head.weight": stored(np.ones((50, 32), dtype=np.float32))}
    wide = adapter(tmp_path / "wide", modules() | head, config(modules_to_save=["lm_head"]))
    report, text = section(wide)
    lora = sum(layer.bytes for layer in report.layers)
    assert lora == 4 * report.total_lora_params
    assert report.adapter.bytes > lora + 4 * 50 * 32
    assert "full-weight module (modules_to_save) (1)" in text
    assert (
        f"gradience compress {report.adapter.path} --rank {max(layer.r for layer in report.layers)} --dtype BF16"
        in text
    )


def test_16_bits_and_little_else_need_no_section():
    assert section(example_adapter())[1].strip() == ""
