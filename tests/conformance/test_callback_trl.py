"""TRL's trainers with and without the callback: the same losses and the same adapter, bit for bit; and what monitor
says about healthy and broken GRPO, DPO and SFT runs."""

import importlib

import pytest
import torch
from data_files import write_jsonl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from gradience.audit.adapter import audit_adapter
from gradience.cli.app import run
from gradience.evaluate.inputs import read_inputs
from gradience.evaluate.settings import evaluate_settings
from gradience.live.callback import GradienceCallback
from gradience.models.load import load_tokenizer
from gradience.models.locate import locate
from gradience.models.settings import ModelSettings
from gradience.models.tokenizers import encode_pair
from gradience.monitor import monitor_runs
from gradience.reports.evaluation import EvaluationForecast, EvaluationReport
from gradience.telemetry import TelemetryReader
from tests.conformance import tiny_trl
from tests.conformance.tiny_trl import SCENARIOS, lora, speaker
from tests.live.tiny import llama

pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore")]

LORA = {
    "plain": {},
    "rslora, dropout": {"use_rslora": True, "lora_dropout": 0.1},
    "dora": {"use_dora": True},
    "all linear": {"target_modules": "all-linear"},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 4}},
}


def watched(make, spectra_every):
    """Train with the callback: a training without it has the same log, apart from times, and the same weights."""
    logs, weights = [], []
    for name, callbacks in (("plain", []), ("watched", [GradienceCallback(spectra_every=spectra_every)])):
        trainer = make(name, callbacks)
        trainer.train()
        logs.append([without_times(entry) for entry in trainer.state.log_history])
        weights.append(trainer.model.state_dict())
    assert logs[0] == logs[1]
    assert [key for key, value in weights[0].items() if not torch.equal(value, weights[1][key])] == []
    return trainer


def without_times(entry):
    timed = ("step_time", "runtime", "per_second", "memory")
    return {key: value for key, value in entry.items() if not any(word in key for word in timed)}


@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 2}], ids=["", "accumulated"])
@pytest.mark.parametrize("config", LORA.values(), ids=LORA)
def test_losses_and_adapter_are_bit_identical(tmp_path, config, arguments):
    adapter = lora(**{"target_modules": ["q_proj", "v_proj"], **config})
    settings = {"max_steps": 8, "logging_steps": 1, "eval_strategy": "no", **arguments}

    def make(name, callbacks):
        return SCENARIOS["sft"](
            tmp_path / name, llama(pad_token_id=63), callbacks, adapter=adapter, **settings
        )

    watched(make, spectra_every=2).save_model(str(tmp_path / "adapter"))
    records = list(TelemetryReader(tmp_path / "watched" / "run.jsonl"))
    last = [record for record in records if record.text("kind") == "lora_spectra"][-1]
    audited = [layer.stable_rank for layer in audit_adapter(tmp_path / "adapter").layers]
    assert sorted(last.mapping("metrics")["stable_rank"]) == pytest.approx(sorted(audited), rel=1e-4)
    report = monitor_runs([tmp_path / "watched" / "run.jsonl"]).runs[0]
    assert (report.outcome, report.last_step, report.loss.count) == ("ok", 8, 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return speaker(tmp_path_factory.mktemp("base"))


SAYS = {
    "sft": ("SFTConfig", "supervised"),
    "dpo": ("DPOConfig", "preference"),
    "grpo": ("GRPOConfig", "reinforcement"),
}


@pytest.mark.parametrize("name", SAYS)
def test_monitor_is_quiet_about_healthy_runs(tmp_path, base, name):
    tiny_trl.train(name, tmp_path, base)
    run = monitor_runs([tmp_path / "run.jsonl"]).runs[0]
    assert (run.setup.trainer, run.setup.method, run.outcome) == (*SAYS[name], "ok")
    assert not [alert.code for alert in run.alerts if alert.severity != "info"]
    assert run.rank_use.points[0].step == 2  # after the first logging interval


@pytest.mark.parametrize("name", ["grpo", "dpo"])
def test_rewards_and_adapter_are_bit_identical(tmp_path, base, name):
    watched(
        lambda place, callbacks: SCENARIOS[name](tmp_path / place, base, callbacks, max_steps=8),
        spectra_every=1,
    )


# ---------------------------------------------------------------- An adapter that TRL's SFTTrainer trained


BASE = ModelSettings(name="embedded:smollm2", type="causal_lm")
COLORS = ("red", "green", "blue", "black")
ROWS = [
    {
        "id": f"row {place}",
        "messages": [
            {"role": "user", "content": f"Which color has box {place}?"},
            {"role": "assistant", "content": f"Box {place} is {COLORS[place % 4]}."},
        ],
    }
    for place in range(32)
]
"""Nothing that a base knows: only an adapter that was trained on it does."""
FORMS = {
    "messages": lambda messages: {"messages": messages},
    "prompt and completion": lambda messages: {"prompt": messages[:-1], "completion": messages[-1:]},
}


def trainer_of(folder, form, steps):
    """TRL's own trainer on the rows, as its documentation has it."""
    trl = importlib.import_module("trl")
    settings = {
        "max_steps": steps, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "report_to": [], "seed": 7,
        "save_strategy": "no", "use_cpu": True, "bf16": False, "disable_tqdm": True, "gradient_checkpointing": False,
        "lr_scheduler_type": "constant", "logging_steps": 10,
    }  # fmt: skip
    return trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(str(locate(BASE).folder), dtype="float32"),
        args=trl.SFTConfig(output_dir=str(folder), **settings),
        train_dataset=Dataset.from_list([FORMS[form](row["messages"]) for row in ROWS]),
        processing_class=load_tokenizer(BASE),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """`trained`, a smaller copy of it, and the conversations."""
    root = tmp_path_factory.mktemp("trl")
    trainer = trainer_of(root / "run", "prompt and completion", 40)
    trainer.train()
    trainer.save_model(str(root / "trained"))
    write_jsonl(root / "rows.jsonl", ROWS)
    assert (
        run(["compress", str(root / "trained"), "--rank", "8", "-o", str(root / "smaller"), "--quiet"]) == 0
    )
    return root


@pytest.mark.parametrize("form", FORMS)
def test_the_prompts_are_what_trl_trained_on_token_by_token(project, form, tmp_path):
    given = {"adapters": [project / "trained"], "base_model": BASE.name, "data": project / "rows.jsonl"}
    inputs = read_inputs(evaluate_settings(given))
    tokenizer = load_tokenizer(BASE)
    ours = {each.id: encode_pair(tokenizer, each.prompt, each.response) for each in inputs.examples}
    trained = trainer_of(tmp_path, form, 1).train_dataset
    assert len(ours) == len(trained) == len(ROWS)
    for row, theirs in zip(ROWS, trained, strict=True):
        prompt, response = ours[row["id"]]
        ids = list(theirs["input_ids"])
        assert ids[: len(prompt) + len(response)] == prompt + response
        # Behind the end token the template has a line break, of which nothing is asked.
        assert tokenizer.decode(ids[len(prompt) + len(response) :]) in ("", "\n")
        if form == "prompt and completion":
            labels = list(theirs["labels"])[: len(prompt) + len(response)]
            assert labels == [-100] * len(prompt) + response


def test_it_is_evaluated_to_a_verdict(project, capsys):
    rows = ["--data", str(project / "rows.jsonl"), "-b", BASE.name, "--device", "cpu"]
    adapters = [str(project / name) for name in ("trained", "smaller")]
    assert run(["evaluate", *adapters, *rows, "--preview", "--json"]) == 0
    shown = EvaluationForecast.model_validate_json(capsys.readouterr().out).scored[0]
    assert shown.prompt.startswith("<|im_start|>system")
    assert shown.prompt.endswith("<|im_start|>assistant\n")
    assert shown.response.endswith("<|im_end|>")
    assert shown.correct
    out = project / "out"
    assert run(["evaluate", *adapters, *rows, "--with-base", "-o", str(out), "--quiet"]) in (0, 1, 8)
    reference, candidate, base = EvaluationReport.read(out / "evaluation.json").adapters
    assert reference.correct > len(ROWS) / 2 > base.correct
    assert base.pairs.delta < 0
    assert candidate.grade in ("B", "C", "D")
    assert candidate.change.kl_per_example < base.change.kl_per_example
