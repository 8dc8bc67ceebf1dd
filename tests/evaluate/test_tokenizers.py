"""The tokenizer of an evaluation, a calibration and a distillation; adapters trained with more tokens."""

import json
import shutil

import pytest
import tiny_bench
import torch
from adapters_to_compare import adapter
from data_files import write_jsonl
from peft import LoraConfig, PeftModel, get_peft_model
from raising import raises
from transformers import AutoModelForCausalLM

from gradience import calibrate_adapter, evaluate_adapters
from gradience.adapters.formats import open_adapter
from gradience.calibrate import verb as calibration
from gradience.calibrate.settings import CalibrateSettings, DistillSettings
from gradience.cli.app import run
from gradience.distill.verb import read_distill_inputs
from gradience.errors import InputError, UsageError
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.evaluate.inputs import read_inputs
from gradience.evaluate.settings import evaluate_settings
from gradience.models.load import quiet

TEMPLATE = "{% for m in messages %}{{ m.content }} [END] {% endfor %}"
OWN = "very " + TEMPLATE


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base with a chat template, and three adapters: two with tokenizers of their own, one without."""
    root = tmp_path_factory.mktemp("tokenizers")
    tiny_bench.llama(root / "base")
    for seed, (name, template) in enumerate(
        {"base": TEMPLATE, "own": OWN, "same": TEMPLATE, "bare": None}.items()
    ):
        if name != "base":
            adapter(root / name, root / "base", seed, task="CAUSAL_LM", r=4 if name != "bare" else 2)
        if template:
            reader = tiny_bench.tokenizer()
            reader.chat_template = template
            reader.save_pretrained(root / name)
    rows = [
        {"messages": [{"role": "user", "content": f"film {n}"}, {"role": "assistant", "content": "good"}]}
        for n in range(16)
    ]
    write_jsonl(root / "rows.jsonl", rows)
    return root


def asked(folders, *names, **given):
    data = {"base_model": str(folders / "base"), "data": folders / "rows.jsonl", "device": "cpu"}
    return evaluate_settings({"adapters": [folders / name for name in names], **data, **given})


@pytest.mark.parametrize(
    ("names", "given", "begins", "notes"),
    [
        (["own"], {}, "very film", ["saved with own; the base's differ (--tokenizer base"]),
        (["own"], {"tokenizer": "adapter"}, "very film", ["saved with own; the base's differ"]),
        (["own"], {"tokenizer": "base"}, "film", []),
        (["same"], {}, "film", ["saved with same; the base's are the same"]),
        (["bare"], {}, "film", []),
        (["own", "same"], {}, "very film", ["saved with own", "same was saved with another tokenizer"]),
        (["own", "bare"], {}, "very film", ["saved with own"]),
    ],
)
def test_the_reference_adapters_tokenizer_is_used_where_it_has_one(folders, names, given, begins, notes):
    inputs = read_inputs(asked(folders, *names, **given))
    assert all(each.prompt.startswith(begins) for each in inputs.examples)
    said = [note for note in inputs.notes if "tokenizer" in note]
    assert len(said) == len(notes)
    assert all(part in note for part, note in zip(notes, said, strict=True))


def test_an_adapter_without_a_tokenizer_cannot_lend_one(folders):
    with pytest.raises(UsageError, match=r"bare: contains no tokenizer_config\.json") as caught:
        read_inputs(asked(folders, "bare", tokenizer="adapter"))
    assert "--tokenizer base" in caught.value.hint


def test_the_records_belong_to_a_tokenizer_and_the_report_names_it(folders, tmp_path):
    copied = shutil.copytree(folders / "own", tmp_path / "own")
    given = {"base_model": folders / "base", "data": folders / "rows.jsonl", "output": tmp_path / "out"}
    given |= {"device": "cpu", "max_new_tokens": 2}
    first = evaluate_adapters([copied], **given)
    assert "saved with own" in first.notes[0]
    records = tmp_path / "out" / "records" / "own.jsonl"
    before = records.stat().st_mtime_ns
    evaluate_adapters([copied], **given)
    assert records.stat().st_mtime_ns == before
    config = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "[UNK]"}))
    evaluate_adapters([copied], **given)
    assert records.stat().st_mtime_ns != before


def test_a_calibration_and_a_distillation_use_it_too(folders, tmp_path, capsys):
    given = {"prompts": folders / "rows.jsonl", "base_model": str(folders / "base")}
    for of, begins in ((None, "very film"), ("base", "film")):
        settings = CalibrateSettings(adapter=folders / "own", tokenizer=of, **given)
        with open_adapter(settings.adapter) as opened:
            rows = calibration.read_inputs(settings, opened).rows
        assert all(row.text.startswith(begins) for row in rows.all)
    written = calibrate_adapter(folders / "own", tmp_path / "c.safetensors", device="cpu", **given)
    assert "saved with" in written.report.notes[0]
    settings = DistillSettings(adapter=folders / "bare", teacher=folders / "own", **given)
    with open_adapter(settings.adapter) as student, open_adapter(settings.teacher) as teacher:
        distillation = read_distill_inputs(settings, student, teacher)
    assert all(row.text.startswith("very film") for row in distillation.student.rows.all)
    command = ["calibrate", str(folders / "own"), "-b", str(folders / "base"), "--dry-run"]
    assert run([*command, "--prompts", str(folders / "rows.jsonl")]) == 0
    assert "note: the tokenizer and its chat template are those saved with" in capsys.readouterr().err


# ---------------------------------------------------------------- more tokens than the base

FEATURES = {
    "saved": {},
    "whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "on the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "on the head": {"target_modules": ["q_proj", "lm_head"]},
    "trained tokens": {"trainable_token_indices": {"embed_tokens": [31, 32]}},
}


def resized(root, base, **config):
    """An adapter that was trained with two more tokens, as PEFT saves it, and its model."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(base)
    reader = tiny_bench.tokenizer()
    reader.add_tokens(["[A]", "[B]"], special_tokens=True)
    model.resize_token_embeddings(len(reader))
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **config}
    trained = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    trained.save_pretrained(root / "adapter")
    reader.save_pretrained(root / "adapter")
    write_jsonl(root / "rows.jsonl", ({"prompt": f"a film {n} is", "answer": "[A]"} for n in range(8)))
    return trained.eval()


@pytest.mark.filterwarnings("ignore")  # PEFT's and transformers', of what is resized and saved
@pytest.mark.parametrize("feature", FEATURES)
def test_an_adapter_with_more_tokens_than_the_base_gets_the_hint_that_helps(tmp_path, feature):
    base = tiny_bench.llama(tmp_path / "base")
    trained = resized(tmp_path, base, **FEATURES[feature])
    given = {"base_model": str(base), "data": tmp_path / "rows.jsonl", "device": "cpu"}
    with raises(
        InputError, "vocabulary", r"trained with a vocabulary of 33 tokens, but .*base has 31"
    ) as caught:
        read_inputs(evaluate_settings({"adapters": [tmp_path / "adapter"], **given}))
    calibrated = {"prompts": tmp_path / "rows.jsonl", "base_model": str(base)}
    with (
        open_adapter(tmp_path / "adapter") as opened,
        pytest.raises(InputError, match="trained with a vocabulary of 33 tokens"),
    ):
        calibration.read_inputs(CalibrateSettings(adapter=tmp_path / "adapter", **calibrated), opened)
    # What the hint says, and then PEFT's own logits.
    assert "resize_token_embeddings(33)" in caught.value.hint
    with quiet():
        larger = AutoModelForCausalLM.from_pretrained(base)
        larger.resize_token_embeddings(33)
        PeftModel.from_pretrained(larger, tmp_path / "adapter").unload().save_pretrained(tmp_path / "larger")
    given |= {"adapters": [tmp_path / "adapter"], "base_model": str(tmp_path / "larger")}
    inputs = read_inputs(evaluate_settings(given))
    engine = TransformersEngine.load(inputs.model, device="cpu")
    engine.add("it", tmp_path / "adapter")
    ids = torch.tensor([engine.tokenizer("a film [A] is")["input_ids"]])
    with torch.inference_mode(), engine.using("it") as model:
        torch.testing.assert_close(model(ids).logits, trained(ids).logits)


@pytest.mark.filterwarnings("ignore")
def test_a_tokenizer_with_more_tokens_than_the_base_needs_another_base_or_the_bases(tmp_path):
    base = tiny_bench.llama(tmp_path / "base")
    trained = resized(tmp_path, base)
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    given = {"adapters": [tmp_path / "adapter"], "base_model": str(base), "data": tmp_path / "rows.jsonl"}
    with pytest.raises(InputError, match=r"its tokenizer has 33 tokens, but .*base has 31") as caught:
        read_inputs(evaluate_settings(given))
    assert "--tokenizer base" in caught.value.hint
    assert read_inputs(evaluate_settings({**given, "tokenizer": "base"})).model.tokenizer is None
