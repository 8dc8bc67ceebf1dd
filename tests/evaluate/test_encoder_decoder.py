"""Encoder–decoder models: T5 and BART, small and trained a little, against transformers' own generate and loss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluating import evaluate_choices, evaluate_generation, evaluate_scores
from peft import LoraConfig, PeftModel, get_peft_model
from scipy.special import log_softmax, rel_entr
from tiny_encoder_decoders import BEGIN, END, EXAMPLES, TARGETS, labels_of, model_of, tokenizer_of, train
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from gradience import evaluate_adapters
from gradience.errors import InputError, UsageError
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.evaluate.forecast import forecast_evaluation
from gradience.evaluate.inputs import read_inputs
from gradience.evaluate.settings import EvaluateSettings
from gradience.models.settings import ModelSettings
from gradience.tasks.examples import ChoiceExample

NEW = 8


@pytest.fixture(scope="module", params=["t5", "bart"])
def folder(request, tmp_path_factory):
    """A base that was trained a little, two adapters that were trained a little more, one that was not."""
    root, kind = tmp_path_factory.mktemp(request.param), request.param
    tokenizer = tokenizer_of(kind)
    train(model_of(kind), tokenizer, 12, 0).save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    for seed, (name, steps) in enumerate({"reference": 10, "other": 4, "untrained": 0}.items()):
        base = AutoModelForSeq2SeqLM.from_pretrained(root / "base")
        config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=TARGETS[kind])
        train(get_peft_model(base, config), tokenizer, steps, seed).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def engine(folder):
    engine = TransformersEngine.load(
        ModelSettings(name=str(folder / "base"), type="seq2seq_lm"), device="cpu"
    )
    for name in ("reference", "other"):
        engine.add(name, folder / name)
    return engine


def alone(folder: Path, name: str | None):
    base = AutoModelForSeq2SeqLM.from_pretrained(folder / "base")
    return base.eval() if name is None else PeftModel.from_pretrained(base, folder / name).eval()


@pytest.mark.parametrize("name", [None, "reference"])
def test_outputs_are_those_of_transformers_one_by_one(folder, engine, name):
    model, tokenizer = alone(folder, name), AutoTokenizer.from_pretrained(folder / "base")
    ask = {"filters": {"all": str}, "same": str.__eq__, "max_new_tokens": NEW}
    records = evaluate_generation(engine, name, EXAMPLES, **ask, batch_size=5).records
    lengths = set()
    for record, example in zip(records, EXAMPLES, strict=True):
        ids = tokenizer(example.prompt, return_tensors="pt")["input_ids"]
        forced = 1 if model.generation_config.forced_bos_token_id is not None else 0
        written = model.generate(input_ids=ids, do_sample=False, max_new_tokens=NEW + forced)[0]
        assert record.output == tokenizer.decode(written, skip_special_tokens=True)
        lengths.add(len(record.output))
        assert record.stopped_by == ("eos" if written[-1] == END else "length")
    assert len(lengths) > 1  # or it would not show that rows end by themselves
    assert evaluate_generation(engine, name, EXAMPLES, **ask, batch_tokens=64).records == records


def distributions(model, tokenizer, prompt, response):
    """Log-probabilities of each token of the target behind those before it, from the labels alone; and the target."""
    ids, labels = tokenizer(prompt, return_tensors="pt")["input_ids"], labels_of(tokenizer, [response])
    with torch.no_grad():
        out = model(input_ids=ids, labels=labels)
    logs, target = log_softmax(out.logits[0].double().numpy(), axis=-1), labels[0].numpy()
    assert float(out.loss) == pytest.approx(-logs[np.arange(len(target)), target].mean(), abs=1e-5)
    begins = int(target[0] == BEGIN)  # given to the decoder, and not scored
    return logs[begins:], target[begins:]


@pytest.mark.parametrize("name", ["other", None])
def test_likelihood_and_kl_are_those_of_transformers_loss(folder, engine, name):
    models = {each: alone(folder, each) for each in ("reference", name)}
    scores = evaluate_scores(engine, [name], EXAMPLES, reference="reference", batch_size=6)[name].records
    for record, example in zip(scores, EXAMPLES, strict=True):
        (reference, _), (logs, target) = (
            distributions(model, engine.tokenizer, example.prompt, example.answer)
            for model in models.values()
        )
        assert record.n_tokens == len(target) == len(example.answer) + 1
        assert record.loglikelihood == pytest.approx(logs[np.arange(len(target)), target].sum(), abs=1e-4)
        assert record.kl == pytest.approx(rel_entr(np.exp(reference), np.exp(logs)).sum(), abs=1e-4)
        assert record.flips == (reference.argmax(1) != logs.argmax(1)).sum()


def test_choices_share_their_prompt_and_are_scored_without_an_end(folder, engine):
    examples = [
        ChoiceExample(str(n), f"{n}+{n}=", (f"{2 * n}", f"{n}", "7 7 7")[: 2 + n % 2], 0, "confirm", " ")
        for n in range(8)
    ]
    encoded = []
    engine.base.get_encoder().register_forward_hook(
        lambda _module, _arguments, options, _output: encoded.append(len(options["input_ids"])),
        with_kwargs=True,
    )
    records = evaluate_choices(engine, "reference", examples, batch_size=9, allow_inert=True).records
    assert sum(encoded) == len(examples)
    model = alone(folder, "reference")
    for record, example in zip(records, examples, strict=True):
        expected = []
        for choice in example.choices:
            logs, target = distributions(model, engine.tokenizer, example.prompt, choice)
            expected.append(logs[np.arange(len(target)), target][:-1].sum())
        assert record.loglikelihoods == pytest.approx(expected, abs=1e-4)


def test_long_prompts_lose_their_end_and_long_responses_are_refused(engine):
    ask = {"filters": {"all": str}, "same": str.__eq__, "max_new_tokens": NEW}
    cut = evaluate_generation(engine, "other", EXAMPLES, **ask, max_length=12).records
    specials = len(engine.tokenizer("")["input_ids"])
    assert [record.truncated for record in cut] == [len(e.prompt) + specials > 12 for e in EXAMPLES]
    short = [type(e)(e.id, e.prompt[: 12 - specials], e.response, e.answer) for e in EXAMPLES]
    assert [r.output for r in evaluate_generation(engine, "other", short, **ask, max_length=12).records] == [
        record.output for record in cut
    ]
    with pytest.raises(InputError) as caught:
        evaluate_scores(engine, ["other"], EXAMPLES, max_length=3)
    assert caught.value.code == "response-too-long"


def test_adapters_of_an_encoder_decoder_are_compared_on_rows(folder, tmp_path):
    rows = [{"prompt": e.prompt, "answer": e.answer} for e in EXAMPLES]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapters = [folder / name for name in ("reference", "other", "untrained")]
    report = evaluate_adapters(
        adapters, base_model=folder / "base", data=tmp_path / "rows.jsonl", with_base=True, device="cpu",
        output=tmp_path / "out", max_new_tokens=NEW,
    )  # fmt: skip
    by_name = {row.name: row for row in report.adapters}
    assert by_name["other"].change.kl_per_example > 0 < by_name["base"].change.kl_per_example
    assert (by_name["untrained"].grade, "B is 0 in every module" in by_name["untrained"].reason) == (
        "X",
        True,
    )
    request = EvaluateSettings(
        adapters=tuple(adapters), base_model=str(folder / "base"), data=tmp_path / "rows.jsonl"
    )
    assert "encoder–decoder" in " ".join(forecast_evaluation(read_inputs(request)).assumptions)
    config = json.loads((folder / "other" / "adapter_config.json").read_text())
    (tmp_path / "causal").mkdir()
    (tmp_path / "causal" / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))
    weights = (folder / "other" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "causal" / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(UsageError, match="two kinds of model"):
        evaluate_adapters(
            [adapters[0], tmp_path / "causal"], base_model=folder / "base", data=tmp_path / "rows.jsonl"
        )


def test_bench_refuses_to_train_one():
    from gradience.bench.config.load import load_config
    from gradience.bench.config.shipped import find_config
    from gradience.errors import GradienceError

    with pytest.raises(GradienceError, match="does not train encoder–decoder models"):
        load_config(find_config("minilm_reviews"), ["model.type=seq2seq_lm"])
