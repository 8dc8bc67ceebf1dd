"""Training: seeded before anything is drawn, the loss on answers, recorded. Real Trainer, tiny models."""

import json
from typing import Any

import pytest
import torch
from peft import PeftModel
from raising import raises
from safetensors.torch import load_file
from tiny_bench import sentences, sums, tokenizer
from tiny_training import LORA, recipe, run, weights

from gradience import audit_adapter
from gradience.errors import InputError, UsageError
from gradience.models.settings import ModelSettings
from gradience.monitor import monitor_runs
from gradience.training import trainer as training
from gradience.training.encode import encode_labeled
from gradience.training.trainer import train, watch_peak

# ------------------------------------------------------------------ what is trained


def test_the_labels_that_reach_the_model_are_the_answer_and_the_end_token(causal, tmp_path, monkeypatch):
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    wrap = training.with_fresh_lora

    def watched(*args: Any, **kwargs: Any) -> Any:
        network = wrap(*args, **kwargs)
        network.register_forward_pre_hook(
            lambda _, __, inputs: seen.append(
                (inputs["input_ids"], inputs["labels"], inputs["attention_mask"])
            ),
            with_kwargs=True,
        )
        return network

    monkeypatch.setattr(training, "with_fresh_lora", watched)
    run(causal, tmp_path)
    read = tokenizer()
    answers = {item.prompt: item.answer for item in sums().examples.all}
    assert len(seen) == 6
    lengths = set()
    for ids, labels, mask in seen:
        for row_ids, row_labels, row_mask in zip(ids, labels, mask, strict=True):
            trained = row_labels[row_labels != -100]
            lengths.add(int(row_mask.sum()))
            prompt = read.decode(row_ids[(row_labels == -100) & (row_mask == 1)])
            assert read.decode(trained) == f"{answers[prompt]} [END]"
            assert (row_labels[row_mask == 0] == -100).all()
            assert (row_ids[row_labels != -100] == trained).all()
    assert len(lengths) > 3  # batches of unequal rows


def test_a_question_too_long_is_left_out_and_counted_not_cut(causal, tmp_path):
    report = run(causal, tmp_path, recipe=recipe(max_length=8))
    lengths = [len(item.prompt.split()) + 2 for item in sums().examples.of("train")]
    assert report.examples.left_out == sum(length > 8 for length in lengths) > 0
    assert report.examples.n == sum(length <= 8 for length in lengths)
    assert report.examples.tokens == sum(length for length in lengths if length <= 8)


def test_pairs_of_texts_are_encoded_as_pairs():
    from dataclasses import replace

    items = [replace(item, text_pair="a plot") for item in sentences().examples.all[:2]]
    rows = encode_labeled(tokenizer(), items, 16).features
    decoded = [tokenizer().decode(row["input_ids"]) for row in rows]
    assert decoded == [f"{item.text} a plot" for item in items]


# ------------------------------------------------------------------ seeds


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(causal, tmp_path):
    first, again, other = (
        run(causal, tmp_path / name, seed=seed) for name, seed in (("a", 42), ("b", 42), ("c", 43))
    )
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    assert first.adapter_sha256 == again.adapter_sha256
    assert first.start == again.start
    assert first.start.initial_adapter_sha256 != other.start.initial_adapter_sha256
    assert first.start.first_batch_sha256 != other.start.first_batch_sha256
    config = [(tmp_path / name / "adapter" / "adapter_config.json").read_bytes() for name in "ab"]
    assert config[0] == config[1]


# ------------------------------------------------------------------ what comes out


def test_the_adapter_is_peft_s_and_the_report_says_what_it_is(causal, tmp_path):
    patterns = {
        "rank_pattern": {"model.layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {"model.layers.0.self_attn.q_proj": 4},
    }
    report = run(causal, tmp_path, lora={**LORA, **patterns})
    audit = audit_adapter(tmp_path / "adapter")
    ranks = {layer.name.removeprefix("base_model.model."): (layer.r, layer.scale) for layer in audit.layers}
    assert ranks["model.layers.0.self_attn.q_proj"] == (2, 2.0)
    assert ranks["model.layers.1.self_attn.q_proj"] == (4, 2.0)
    assert report.lora_params == audit.total_lora_params
    assert report.other_params == 0
    assert report.steps == report.planned_steps == 6
    assert report.loss is not None
    assert not report.diverged
    assert not list(tmp_path.glob("checkpoints*"))
    loaded = PeftModel.from_pretrained(
        training.load_base(causal, device="cpu").model, str(tmp_path / "adapter")
    )
    assert sum(p.numel() for n, p in loaded.named_parameters() if "lora_" in n) == report.lora_params
    assert json.loads((tmp_path / "run.jsonl").read_text().splitlines()[0])["event"] == "run_start"


def test_it_learns(classifier, tmp_path):
    everywhere = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    report = run(classifier, tmp_path, lora=everywhere, recipe=recipe(max_steps=150, lr=3e-3))
    assert report.loss is not None
    assert report.loss < 0.1  # log 2 is what a coin has
    assert report.other_params > 0
    log = monitor_runs([tmp_path / "run.jsonl"]).runs[0]
    assert log.loss.count >= 8  # enough for monitor to miss an evaluation, had nobody said who evaluates
    assert "no-evaluation" not in {alert.code for alert in log.alerts}


def test_a_loss_that_is_no_number_ends_the_training_there(causal, tmp_path):
    everywhere = {**LORA, "target_modules": "all-linear"}
    report = run(causal, tmp_path, lora=everywhere, recipe=recipe(lr=1e30, max_steps=50, max_grad_norm=0))
    assert report.diverged
    assert report.loss is None
    assert report.steps < 50


def test_accumulation_is_the_same_batch_in_parts(causal, tmp_path):
    run(causal, tmp_path / "whole", recipe=recipe(per_device_train_batch_size=4))
    two = recipe(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    run(causal, tmp_path / "parts", recipe=two)
    whole, parts = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "parts")
    )
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------------ errors


def test_a_finished_training_is_not_repeated_and_not_mistaken_for_another(causal, tmp_path):
    done = run(causal, tmp_path)
    before = (tmp_path / "training.json").stat().st_mtime_ns
    assert run(causal, tmp_path) == done
    assert (tmp_path / "training.json").stat().st_mtime_ns == before
    with raises(InputError, "other-training", "with a different seed"):
        run(causal, tmp_path, seed=43)


def test_a_base_that_is_in_no_package(tmp_path):
    with raises(UsageError, "unknown-model"):
        run(ModelSettings(name="embedded:nothing", type="causal_lm"), tmp_path / "out")


def test_a_task_that_the_model_cannot_do(causal, tmp_path):
    with raises(UsageError, "task-model", "needs seqcls"):
        train(
            sentences(),
            model=causal,
            lora=LORA,
            recipe=recipe(),
            seed=1,
            output=tmp_path / "out",
            device="cpu",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": None}, "exactly one of `max_steps` and `epochs`"),
        ({"epochs": 1}, "exactly one of `max_steps` and `epochs`"),
        ({"warmup_steps": 3, "warmup_ratio": 0.1}, "only one of `warmup_steps` and `warmup_ratio`"),
        ({"learning_rate": 1e-3}, "Extra inputs"),
        ({"lr": 0}, "greater than 0"),
    ],
    ids=["no length", "two lengths", "two warm-ups", "a name of transformers", "no rate"],
)
def test_recipes_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


# ---------------------------------------------------------------- Peaks of memory


def test_a_gpu_is_asked_for_its_own_peak(monkeypatch):
    """The second GPU's, from now on: not the first one's, and not what an earlier stage had taken."""
    asked: list[tuple[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append(("reset", device)))
    monkeypatch.setattr(
        torch.cuda, "max_memory_allocated", lambda device: asked.append(("read", device)) or 7
    )
    peak = watch_peak(torch.device("cuda", 1))
    assert asked == [("reset", torch.device("cuda", 1))]
    assert peak() == 7
    assert asked[-1] == ("read", torch.device("cuda", 1))
