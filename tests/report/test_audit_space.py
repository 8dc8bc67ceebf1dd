"""Disk space is shown if the file has more than 16-bit LoRA weights; the bytes add up to the file."""

from __future__ import annotations

import re
import shlex
import shutil

import numpy as np
import torch
from factory import PREFIX, adapter, config, modules, stored
from safetensors.torch import load_file

from gradience import audit_adapter
from gradience.cli.app import run
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
    rank = max(layer.r for layer in report.layers)
    assert f"gradience compress {report.adapter.path} --rank {rank} --dtype BF16 -o smaller" in text


def test_only_commands_that_work_as_typed_are_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = adapter(tmp_path / "wide", modules(), config())
    tensors = load_file(folder / "adapter_model.safetensors")
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").unlink()
    torch.save(tensors, pickled / "adapter_model.bin")
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "adapter_config.json").unlink()
    printed = []
    for place in (folder, pickled, bare):
        text = audit_adapter(place, allow_pickle=True).to_text(path=place.name)
        for command in re.findall(r"gradience (compress [^·)]*)(?: ·|\))", " ".join(text.split())):
            printed.append(place.name)
            shutil.rmtree("smaller", ignore_errors=True)
            assert run(shlex.split(command)) == 0, command
    assert {*printed} == {"wide", "pickled"}


def test_16_bits_and_little_else_need_no_section():
    assert section(example_adapter())[1].strip() == ""
