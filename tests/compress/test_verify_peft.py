"""`compress --verify-peft`: PEFT loads what was written on a skeleton of the base, and says so where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compressing import compress
from factor_samples import random_factors, write
from peft_cases import CASES, config, saved_once
from safetensors.torch import load_file

from gradience import audit_adapter
from gradience.adapters.formats import open_adapter
from gradience.cli.app import run
from gradience.compress.adapter import write_compressed
from gradience.compress.check import check_with_peft, skeleton
from gradience.compress.peft_load import check
from gradience.errors import MissingExtra, VerificationError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToRank
from gradience.reports.compression import CompressionReport

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
REPLICATED = config(target_modules=["q_proj"], layer_replication=[[0, 2], [0, 2]])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return saved_once(tmp_path_factory)


def asked(source: Path, folder: Path, report: CompressionReport) -> dict:
    """What the child process answers, in this one."""
    with open_adapter(source) as opened:
        request = {
            "folder": str(folder),
            **skeleton(opened, opened.config),
            "expected": {
                row.name: [row.stored_rank, row.scale / row.folded]
                for row in report.modules
                if row.stored_rank
            },
        }
    return check(json.loads(json.dumps(request)))


@pytest.mark.parametrize(
    ("name", "encoding"), [(name, ("patterns", "padded")[index % 2]) for index, name in enumerate(CASES)]
)
def test_peft_loads_every_kind_of_module_on_a_skeleton(name, encoding, original, tmp_path):
    report = compress(original(name), tmp_path / "out", ToRank(2), encoding=encoding)
    answer = asked(original(name), tmp_path / "out", report)
    assert answer["problems"] == []
    assert answer["modules"] == len(report.modules)
    assert answer["tensors"] == len(load_file(tmp_path / "out" / WEIGHTS))


# ---------------------------------------------------------------- what it must not let through


def spoiled(folder: Path, **fields) -> None:
    settings = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(settings | fields))


@pytest.mark.parametrize(
    ("name", "options", "spoil", "complaint"),
    [
        ("all-but-the-head", {"strip": ["classifier"]}, {"task_type": "SEQ_CLS"}, "KeyError"),
        (
            "all-but-the-head",
            {"strip": ["classifier"]},
            {"target_modules": "all-linear"},
            "missing adapter keys",
        ),
        ("llama", {}, {"r": 3}, "size mismatch"),
        ("llama", {}, {"lora_alpha": 7}, "the scale"),
        ("llama", {}, {"target_modules": ["q_proj"]}, "creates no LoRA for"),
    ],
    ids=["head of the task", "all-linear", "rank", "scale", "targets"],
)
def test_a_config_that_does_not_fit(name, options, spoil, complaint, original, tmp_path):
    report = compress(original(name), tmp_path / "out", ToRank(2), **options)
    spoiled(tmp_path / "out", **spoil)
    problems = asked(original(name), tmp_path / "out", report)["problems"]
    assert any(complaint in problem for problem in problems), problems


# ---------------------------------------------------------------- the command


def test_the_command_asks_peft_and_says_what_it_saw(tmp_path, capsys):
    folder = write(tmp_path / "in", random_factors(0, (8, 10, 12), (8, 9, 9), decay=0.3))
    assert run(["compress", str(folder), "--rank", "2", "-o", str(tmp_path / "out"), "--verify-peft"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    report = CompressionReport.read(tmp_path / "out" / "compression_report.json")
    assert report.peft_check is not None
    assert (report.peft_check.modules, report.peft_check.tensors) == (2, 4)
    assert (
        f"with PEFT {report.peft_check.peft}: 2 modules with these ranks and scales, 4 tensors bit-identical"
        in text
    )
    assert "- **loaded**: with PEFT" in (tmp_path / "out" / "compression_report.md").read_text()


def test_a_folder_that_peft_does_not_load_is_not_put_in_place(tmp_path, monkeypatch):
    """A mistake of ours, between the writing and the check."""
    folder = write(tmp_path / "in", random_factors(0, (8, 10, 12), decay=0.3))

    def late(scratch, *rest):
        spoiled(scratch, target_modules=["k_proj"])
        return check_with_peft(scratch, *rest)

    monkeypatch.setattr("gradience.compress.adapter.check_with_peft", late)
    plan = plan_compression(audit_adapter(folder), ToRank(2))
    with pytest.raises(VerificationError, match="PEFT 0") as refusal:
        write_compressed(folder, plan, tmp_path / "out", verify_peft=True)
    assert (refusal.value.exit_code, refusal.value.code) == (1, "peft-refuses")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_without_peft_it_says_so_before_it_writes(tmp_path, monkeypatch):
    folder = write(tmp_path / "in", random_factors(0, (8, 10, 12), decay=0.3))
    monkeypatch.setattr("gradience.compress.check.find_spec", lambda name: None)
    plan = plan_compression(audit_adapter(folder), ToRank(2))
    with pytest.raises(MissingExtra, match="peft is not installed") as refusal:
        write_compressed(folder, plan, tmp_path / "out", verify_peft=True)
    assert refusal.value.exit_code == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
