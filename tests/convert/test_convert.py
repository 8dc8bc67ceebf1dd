"""The same adapter in PEFT's form: what PEFT loads, name by name and bit by bit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from peft_models import llama
from safetensors.numpy import load_file, save_file

from gradience import audit_adapter, convert_adapter
from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.config import PeftConfig
from gradience.adapters.locate import Location
from gradience.adapters.tensors import TensorFile
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.convert.peft import write_peft
from gradience.errors import GradienceError, InputError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return Path(shutil.copytree(example_adapter(), tmp_path / "adapter"))


def test_an_adapter_of_peft_stays_what_it_is(adapter: Path, tmp_path: Path) -> None:
    report = convert_adapter(adapter, tmp_path / "out")
    before, after = audit_adapter(adapter), audit_adapter(tmp_path / "out")
    assert after.layers == before.layers
    assert (report.renamed, report.left_out, report.tensors) == (0, (), before.coverage.tensors)
    assert json.loads((tmp_path / "out" / CONFIG).read_text()) == json.loads((adapter / CONFIG).read_text())
    assert report.output_sha256 == after.adapter.sha256
    assert report.pickle is False


def test_tensors_get_the_names_by_which_peft_finds_them(adapter: Path, tmp_path: Path) -> None:
    tensors = load_file(adapter / WEIGHTS) if np.dtype("float32") else {}
    original = {name: value.astype(np.float32) for name, value in tensors.items()}
    dumped = {
        f"_orig_mod.{name}".replace(".lora_A.", ".lora_A.mine."): value for name, value in original.items()
    }
    dumped = {name.replace(".lora_B.", ".lora_B.mine."): value for name, value in dumped.items()}
    other = next(name for name in dumped if ".lora_A.mine." in name).replace(".mine.", ".other.")
    save_file({**dumped, other: np.ones((2, 2), np.float32)}, adapter / WEIGHTS)
    report = convert_adapter(adapter, tmp_path / "out", adapter="mine")
    written = load_file(tmp_path / "out" / WEIGHTS)
    assert written.keys() == original.keys()
    assert all(np.array_equal(written[name], original[name]) for name in original)
    assert report.renamed == len(original)
    assert [note.tensor for note in report.left_out] == [other]


def test_factors_of_another_format_are_turned(tmp_path: Path) -> None:
    """MLX's orientation: A (n, r), B (r, m), as a reader hands them out."""
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((4, 12)).astype(np.float32), rng.standard_normal((9, 4)).astype(np.float32)
    save_file({"layers.0.q_proj/down": A, "layers.0.q_proj/up": B}, tmp_path / "toy.safetensors")
    with TensorFile.open(tmp_path / "toy.safetensors", root=tmp_path) as file:
        a, b = (
            Factor(name, file, file.entries[name]) for name in ("layers.0.q_proj/down", "layers.0.q_proj/up")
        )
        config = PeftConfig(tmp_path / "toy.json", {"peft_type": "LORA", "r": 4, "lora_alpha": 8})
        where = Location(tmp_path, tmp_path, (file.path,), None)
        linear = LoraPair("layers.0.q_proj", "linear", a, b, 4, 9, 12)
        (tmp_path / "out").mkdir()
        write_peft(Adapter("toy", where, config, [file], None, [linear]), tmp_path / "out")
        written = load_file(tmp_path / "out" / WEIGHTS)
        names = [f"base_model.model.layers.0.q_proj.lora_{side}.weight" for side in "AB"]
        assert sorted(written) == names
        assert np.array_equal(written[names[0]], A)
        assert np.array_equal(written[names[1]], B)
        stacked = LoraPair("layers.0.q_proj", "expert", a, b, 4, 9, 12)
        with pytest.raises(InputError) as caught:
            write_peft(Adapter("toy", where, config, [file], None, [stacked]), tmp_path)
    assert caught.value.code == "not-in-format"


def no_config(adapter: Path) -> None:
    (adapter / CONFIG).unlink()


def one_tensor_twice(adapter: Path) -> None:
    tensors = {name: value.astype(np.float32) for name, value in load_file(adapter / WEIGHTS).items()}
    name = next(name for name in tensors if "lora_A" not in name and "lora_B" not in name)
    save_file({**tensors, f"_orig_mod.{name}": tensors[name]}, adapter / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "options", "code"),
    [
        (no_config, {}, "no-config"),
        (one_tensor_twice, {}, "same-tensor"),
        (None, {"to": "pef"}, "unknown-target"),
    ],
    ids=["no config", "one tensor twice", "no such format"],
)
def test_what_cannot_be_converted(change, options, code, adapter: Path, tmp_path: Path) -> None:
    if change:
        change(adapter)
    with pytest.raises(GradienceError) as caught:
        convert_adapter(adapter, tmp_path / "out", **options)
    assert caught.value.code == code
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_an_output_is_replaced_with_force_alone(adapter: Path, tmp_path: Path, capsys) -> None:
    words = ["convert", str(adapter), str(tmp_path / "out")]
    assert run([*words, "--to", "peft"]) == 0
    assert "Converted to" in capsys.readouterr().out
    assert run(words) == 2
    assert run([*words, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == "peft"


def test_peft_loads_a_pickle_that_was_converted(tmp_path: Path) -> None:
    """Of a file that torch.save wrote: the same logits as from the adapter that PEFT saved, to the bit."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file as load_tensors

    torch.manual_seed(0)
    model = get_peft_model(
        llama(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False)
    )
    model.save_pretrained(tmp_path / "saved")
    base = dict(llama().state_dict())
    shutil.copytree(tmp_path / "saved", tmp_path / "pickled")
    (tmp_path / "pickled" / "README.md").write_text("# mine\n")
    torch.save(load_tensors(tmp_path / "saved" / WEIGHTS), tmp_path / "pickled" / "adapter_model.bin")
    (tmp_path / "pickled" / WEIGHTS).unlink()
    with pytest.raises(InputError) as caught:
        convert_adapter(tmp_path / "pickled", tmp_path / "out")
    assert (caught.value.code, caught.value.exit_code) == ("pickle", 3)
    report = convert_adapter(tmp_path / "pickled", tmp_path / "out", allow_pickle=True)
    assert report.pickle
    assert "README.md" in report.carried_files
    tokens, logits = torch.arange(8)[None], []
    for folder in ("saved", "out"):
        plain = llama()
        plain.load_state_dict(base)
        with torch.no_grad():
            logits.append(PeftModel.from_pretrained(plain, tmp_path / folder).eval()(tokens).logits)
    assert torch.equal(*logits)
