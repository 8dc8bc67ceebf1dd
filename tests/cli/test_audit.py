"""`gradience audit`, as a user runs it: real processes, adapters written by PEFT."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killing import HANGS
from pseudo_terminal import drawn_by
from safetensors.numpy import load_file, save_file

from gradience.artifacts.audit import AuditReport

MODULES = 28
LAYERS, KINDS = 4, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def gradience(*arguments, environment=None, cwd=None, text=True):
    return subprocess.run(
        [sys.executable, "-m", "gradience", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8" if text else None,
        timeout=HANGS,
        check=False,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
    )


def audit(*arguments, **options):
    return gradience("audit", *arguments, **options)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """Checkpoints 100, 200 and 1000 of a tiny Llama whose LoRA learns a fixed batch, saved by PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=list(KINDS), task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config), lora)
    folder = tmp_path_factory.mktemp("run")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    tokens = torch.randint(0, 64, (4, 12))
    for step in range(1, 21):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (2, 4, 20):
            model.save_pretrained(folder / f"checkpoint-{step * 50}")
    return folder


@pytest.fixture
def adapter(run_folder, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(run_folder / "checkpoint-1000", tmp_path / "adapter"))


def edit(adapter, change):
    """Rewrite the weights after `change(tensors)`."""
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_config(adapter, **changes):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def untrain(tensors):
    for key in tensors:
        if "lora_B" in key:
            tensors[key] = np.zeros_like(tensors[key])


def poison(tensors):
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key] = np.full_like(tensors[key], np.nan)


# ---------------------------------------------------------------- one adapter


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
    assert report.run.command == f"gradience audit {adapter} --json"


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
    assert other.suggestions.grid == (3, 5, 8)
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
    made = {}
    exec(done.stdout, made)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS + 1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    model = get_peft_model(LlamaForCausalLM(config), made["config"])
    report = AuditReport.model_validate_json(
        audit(adapter, "--json", "--allowed-ranks", "2,3,4,5,6,8", "--tau", "0.8").stdout
    )
    grid = report.suggestions.grid
    expected = {
        layer.name: (min(rank for rank in grid if rank >= layer.energy_rank_tau), layer.scale)
        for layer in report.layers
    }
    found = {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert found == expected
    assert len({rank for rank, _ in found.values()}) > 1
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
    made = {}
    exec(done.stdout, made)
    smaller = shapes(get_peft_model(base(), made["config"]))
    assert smaller.keys() == shapes(model).keys()
    assert {scale for _, scale in smaller.values()} == {2.0}
    assert max(rank for rank, _ in smaller.values()) < 8


# ---------------------------------------------------------------- streams, colour, encodings


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
    ids=["pipe", "forced", "forced-and-refused", "refused", "dumb"],
)
def test_colour(adapter, environment, coloured):
    done = audit(adapter, environment=environment)
    assert ("\x1b[" in done.stdout) is coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", done.stdout) == audit(adapter).stdout


def test_the_same_bytes_twice(adapter):
    assert audit(adapter, "--layers").stdout == audit(adapter, "--layers").stdout


def test_a_narrow_encoding_gets_ascii_of_the_same_shape(adapter):
    done = audit(adapter, environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stdout.isascii()
    wide = audit(adapter).stdout
    assert [len(line) for line in done.stdout.splitlines()] == [len(line) for line in wide.splitlines()]
    assert "\\u" not in done.stdout


def test_a_closed_pipe_is_quiet(adapter):
    command = f"{sys.executable} -m gradience audit {adapter} --layers | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_it_is_coloured_and_fits(adapter, columns):
    command = [sys.executable, "-m", "gradience", "audit", str(adapter), "--layers"]
    text = drawn_by(command, columns=columns)[0].replace("\r\n", "\n")
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= columns


def test_it_never_loads_torch(adapter):
    code = (
        "import sys; from gradience.cli.app import run; "
        f"assert run(['audit', {str(adapter)!r}, '--layers', '--quiet']) == 0; "
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=True
    )
    assert not {"torch", "transformers", "peft", "pandas", "scipy"} & set(done.stdout.split())


# ---------------------------------------------------------------- trouble


def test_an_untrained_adapter_is_shown_and_exits_4(adapter):
    edit(adapter, untrain)
    done = audit(adapter)
    assert done.returncode == 4
    assert "Can I trust it?" in done.stdout
    assert f"{adapter}: incomplete: all {MODULES} modules are untrained" in done.stderr
    assert audit(adapter, "--json").returncode == 4


def test_a_module_of_nan_is_shown_and_exits_4(adapter):
    edit(adapter, poison)
    done = audit(adapter, "--layers")
    assert done.returncode == 4
    assert f"1 of {MODULES} modules hold NaN or infinity" in done.stderr
    assert re.search(r"^  model\.layers\.\S+ +8 +nonfinite$", done.stdout, flags=re.MULTILINE)
    assert "✗" in done.stdout


def test_no_config_is_printed_where_none_is_suggested(adapter):
    edit(adapter, poison)
    done = audit(adapter, "--suggest-per-layer")
    assert (done.returncode, done.stdout) == (4, "")
    assert "Traceback" not in done.stderr


def test_a_refused_initialisation_has_no_config_and_says_so(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    assert audit(adapter).returncode == 0
    done = audit(adapter, "--suggest-per-layer")
    assert (done.returncode, done.stdout) == (4, "")
    assert "no rank is suggested" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no adapter"),
        (["A", "--tau", "0"], "tau"),
        (["A", "--tau", "1.5"], "tau"),
        (["A", "--tau", "nan"], "tau"),
        (["A", "--tau", "x"], "--tau"),
        (["A", "--allowed-ranks", "4,x"], "allowed ranks"),
        (["A", "--allowed-ranks", "0"], "allowed"),
        (["A", "--allowed-ranks", ""], "allowed ranks"),
        (["A", "--top-wasteful", "-1"], "--top-wasteful"),
        (["A", "--no-such-option"], "--no-such-option"),
        (["A", "--layers", "--suggest-per-layer"], "--suggest-per-layer"),
        (["A", "A", "--output", "x.json"], "--output"),
        (["A", "A", "--suggest-per-layer"], "--suggest-per-layer"),
        (["A", "A", "--top-wasteful", "3"], "--top-wasteful"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_exit_2_and_print_no_result(adapter, arguments, words):
    done = audit(*(adapter if argument == "A" else argument for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "hint: " in done.stderr


def test_a_missing_adapter_exits_3(tmp_path):
    done = audit(tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (3, "")
    assert str(tmp_path / "nowhere") in done.stderr


def test_an_adapter_name_that_is_not_there_exits_3_or_2(adapter):
    done = audit(adapter, "--adapter", "other")
    assert done.returncode in (2, 3)
    assert "other" in done.stderr


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are any bytes on Linux only")
@pytest.mark.parametrize(
    "name", ["a\x1b[31mb", "a\nerror: forged", "[bold]x[]", "caf\udce9", "--", "<b>", "a\u202eb"], ids=ascii
)
def test_folders_with_hostile_names(adapter, name):
    folder = adapter.parent / name
    adapter.rename(folder)
    for options in ([], ["--json"], ["--layers"], ["--suggest-per-layer"], ["--quiet"]):
        done = audit(folder, *options)
        assert done.returncode == 0, done.stderr
        assert all(c.isprintable() or c == "\n" for c in done.stdout)
        assert "\nerror: forged" not in done.stdout
    missing = audit(adapter.parent / (name + "x"))
    assert missing.returncode == 3
    assert all(c.isprintable() or c == "\n" for c in missing.stderr)


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
    assert [json.loads(line)["adapter"]["path"] for line in done.stdout.splitlines()] == list(map(str, given))


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
