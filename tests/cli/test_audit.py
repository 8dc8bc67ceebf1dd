"""`gradience audit`, as a user runs it: real processes, adapters written by PEFT."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command import LAYERS, MODULES, audit, edit, edit_config, untrain

from gradience.reports.audit import AuditReport


def test_the_screen(adapter):
    done = audit(adapter)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"all {MODULES} modules measured, all {2 * MODULES} tensors accounted for" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout


def test_peft_dir_is_another_way_to_name_it(adapter):
    assert audit("--peft-dir", adapter, "--layers").stdout == audit(adapter, "--layers").stdout


def test_layers_adds_a_row_for_each_module(adapter):
    short, long = audit(adapter).stdout, audit(adapter, "--layers").stdout
    rows = [line for line in long.splitlines() if re.match(r"  model\.layers\.\d", line)]
    assert len(rows) == MODULES
    assert len(long.splitlines()) > len(short.splitlines()) + MODULES


def test_json_is_one_line_that_reads_back(adapter, tmp_path):
    done = audit(adapter, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    report = AuditReport.model_validate_json(done.stdout)
    assert len(report.layers) == MODULES
    assert report.run.command == f"gradience audit {adapter.name} --json"


def test_output_holds_what_json_prints(adapter, tmp_path):
    target = tmp_path / "audit.json"
    done = audit(adapter, "--json", "--output", target)
    printed, written = json.loads(done.stdout), json.loads(target.read_text())
    assert printed == written
    assert AuditReport.read(target).n_layers == MODULES


def test_output_never_replaces_a_file_unless_told(adapter, tmp_path):
    target = tmp_path / "audit.json"
    target.write_text("precious")
    done = audit(adapter, "--output", target)
    assert done.returncode == 2
    assert done.stdout == ""
    assert str(target) in done.stderr
    assert "--force" in done.stderr
    assert target.read_text() == "precious"
    assert audit(adapter, "--output", target, "--force").returncode == 0
    assert AuditReport.read(target).n_layers == MODULES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "audit.json"]


def test_output_into_a_folder_that_is_not_there_is_an_io_error(adapter, tmp_path):
    done = audit(adapter, "--output", tmp_path / "no" / "audit.json", "--quiet")
    assert done.returncode == 5
    assert "Traceback" not in done.stderr


def test_quiet_says_nothing_when_all_is_well(adapter, tmp_path):
    done = audit(adapter, "--quiet", "--output", tmp_path / "a.json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "a.json").exists()


def test_tau_and_allowed_ranks_change_the_suggestion(adapter):
    default = AuditReport.model_validate_json(audit(adapter, "--json").stdout)
    other = AuditReport.model_validate_json(
        audit(adapter, "--json", "--tau", "0.5", "--allowed-ranks", "3,5,8").stdout
    )
    assert other.suggestions.tau == 0.5
    assert other.suggestions.allowed_ranks == (3, 5, 8)
    assert other.suggestions.median.rank in (3, 5, 8)
    assert other.suggestions.median.unrounded < default.suggestions.median.unrounded
    assert "k@50" in audit(adapter, "--tau", "0.5").stdout


def test_top_wasteful_lists_as_many_as_asked(adapter):
    for number in (0, 1, 7):
        lines = audit(adapter, "--top-wasteful", number).stdout.splitlines()
        assert sum(line.startswith("  most  ") for line in lines) == number


def test_the_printed_config_is_applied_by_peft_to_exactly_these_modules(run_folder):
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    adapter = run_folder / "checkpoint-1000"
    done = audit(adapter, "--suggest-per-layer", "--allowed-ranks", "2,3,4,5,6,8", "--tau", "0.8")
    assert (done.returncode, done.stderr) == (0, "")
    namespace = {}
    exec(done.stdout, namespace)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS + 1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    model = get_peft_model(LlamaForCausalLM(config), namespace["config"])
    report = AuditReport.model_validate_json(
        audit(adapter, "--json", "--allowed-ranks", "2,3,4,5,6,8", "--tau", "0.8").stdout
    )
    grid = report.suggestions.allowed_ranks
    expected = {
        layer.name: (min(rank for rank in grid if rank >= layer.energy_rank_tau), layer.scale)
        for layer in report.layers
    }
    by_name = {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert by_name == expected
    assert len({rank for rank, _ in by_name.values()}) > 1
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == report.suggestions.per_layer.params


# PEFT 0.21 looks for the keys of target_parameters among the target_modules, says that they were ignored, and applies
# them all the same: this test sees the ranks and scales that it made.
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")
def test_the_printed_config_fits_stacked_experts(tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import MixtralConfig, MixtralForCausalLM

    def base():
        return MixtralForCausalLM(
            MixtralConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=64,
                num_local_experts=4,
            )
        )

    def shapes(model):
        return {
            name: (module.r["default"], module.scaling["default"])
            for name, module in model.named_modules()
            if hasattr(module, "lora_A")
        }

    torch.manual_seed(0)
    lora = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base(), lora)
    with torch.no_grad():  # sharp spectra: direction i is worth 1/i²
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
                parameter.div_(1 + torch.arange(parameter.shape[1]).remainder(8) ** 2)
    model.save_pretrained(tmp_path / "moe")
    done = audit(tmp_path / "moe", "--suggest-per-layer")
    assert (done.returncode, done.stderr) == (0, "")
    namespace = {}
    exec(done.stdout, namespace)
    smaller = shapes(get_peft_model(base(), namespace["config"]))
    assert smaller.keys() == shapes(model).keys()
    assert {scale for _, scale in smaller.values()} == {2.0}
    assert max(rank for rank, _ in smaller.values()) < 8


# ---------------------------------------------------------------- several adapters


def test_several_give_one_table_in_the_order_given(run_folder):
    paths = sorted(run_folder.glob("checkpoint-*"), reverse=True)
    assert [path.name for path in paths] == ["checkpoint-200", "checkpoint-1000", "checkpoint-100"]
    done = audit(*paths)
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.findall(r"^  (checkpoint-\d+)", done.stdout, flags=re.MULTILINE)
    assert shown == [path.name for path in paths]
    assert "not a series: the base model is not named" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_checkpoints_of_a_named_base_are_a_series(run_folder, tmp_path):
    paths = [Path(shutil.copytree(path, tmp_path / path.name)) for path in run_folder.glob("checkpoint-*")]
    for path in paths:
        edit_config(path, base_model_name_or_path="org/base")
    assert "\n  step 100 to 1000 " in audit(*sorted(paths)).stdout


def test_several_with_layers_show_each_module_in_each_adapter(run_folder):
    done = audit(*run_folder.glob("checkpoint-*"), "--layers")
    rows = [line for line in done.stdout.splitlines() if re.match(r"  model\.layers\.\d", line)]
    assert len(rows) == MODULES
    assert all(len(row.split()) == 2 + 3 for row in rows)


def test_several_with_json_give_one_object_a_line(run_folder):
    given = sorted(run_folder.glob("checkpoint-*"))
    done = audit(*given, "--json")
    assert [json.loads(line)["adapter"]["path"] for line in done.stdout.splitlines()] == [
        path.name for path in given
    ]


def test_a_bad_one_among_several_does_not_hide_the_others(run_folder, adapter, tmp_path):
    edit(adapter, untrain)
    paths = [*run_folder.glob("checkpoint-*"), adapter, tmp_path / "nowhere"]
    for options in ([], ["--json"]):
        done = audit(*paths, *options)
        assert done.returncode == 4
        assert "nowhere: no such file or folder" in done.stderr
        assert "incomplete" in done.stderr
        assert "checkpoint-200" in done.stdout
        assert options or "5 adapters in /" in done.stdout
        assert options or "1 of them refused" in done.stdout
        assert options or re.search(r"nowhere +refused: not-found", done.stdout)
    assert audit(*paths[:3], tmp_path / "nowhere").returncode == 3


def test_when_all_of_several_are_bad_nothing_is_on_stdout(tmp_path):
    done = audit(tmp_path / "a", tmp_path / "b")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("error: ") == 2
