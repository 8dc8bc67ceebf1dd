"""The bundled adapter matches its card, fits its base, and ships small."""

import copy
import hashlib
import importlib
import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

import gradience

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(gradience.__file__).parent / "examples" / "minilm-reviews-r8"
WEIGHTS = FOLDER / "adapter_model.safetensors"


@pytest.fixture(scope="module")
def record():
    return json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_it_is_at_most_300_kB_with_everything():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 300_000


def test_record_card_and_weights_are_of_one_run(record):
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert record["weights_sha256"] == digest
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert digest in card
    log = [json.loads(line) for line in (FOLDER / "training_log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == record["preset"]["steps"]
    assert log[-1]["loss"] < log[0]["loss"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("train_example_adapter")


def test_the_card_is_what_the_script_writes_from_the_record(record, script):
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == script.model_card(record)
    assert record["preset"] == json.loads(json.dumps(script.asdict(script.PRESETS["r8"])))


@pytest.mark.parametrize(
    ("weights", "correct", "gate", "accepted"),
    [
        ("same", 0, True, True),  # the same bytes need no scores
        ("other", 0, True, True),
        ("other", -43, True, True),
        ("other", 43, True, True),
        ("other", -44, True, False),  # 2 points of 2,196 are 43.9 sentences
        ("other", 0, False, False),
    ],
)
def test_a_repeated_run_is_accepted_by_its_bytes_or_else_by_its_scores(
    record, script, weights, correct, gate, accepted
):
    again = copy.deepcopy(record)
    again["dev"]["stored_adapter"] += correct
    again["passed_gate"] = gate
    if weights == "other":
        again["weights_sha256"] = "0" * 64
    assert script.check(again, record) is accepted


def test_nothing_in_it_names_the_machine_it_was_made_on():
    for path in FOLDER.iterdir():
        text = path.read_bytes().decode("latin-1") if path.suffix != ".safetensors" else ""
        assert not re.search(r"/(root|home|tmp|work|mnt)\b", text), path.name
    config = json.loads((FOLDER / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_all_its_modules_are_trained_and_stored_as_stated(record):
    with safe_open(WEIGHTS, framework="pt") as file:
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    factors = [name for name in names if "lora_" in name]
    assert len(factors) == 2 * (6 * 2 + 2 * 2)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{record['preset']['stored_as']}"}
    assert sum(tensor.numel() for tensor in tensors.values()) == record["trainable_parameters"]
    assert all(tensors[name].abs().max() > 0 for name in factors)


def test_peft_loads_every_tensor_onto_its_base():
    from peft import PeftModel
    from transformers import BertConfig, BertForSequenceClassification

    # MiniLM-L6's shapes with random weights: what is tested is that every name and shape finds its place.
    shape = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12, "num_hidden_layers": 6}
    base = BertForSequenceClassification(BertConfig(vocab_size=100, num_labels=2, **shape))
    model = PeftModel.from_pretrained(base, str(FOLDER))
    result = model.load_adapter(str(FOLDER), adapter_name="again")
    assert result.unexpected_keys == []
    assert [key for key in result.missing_keys if "again" in key] == []
