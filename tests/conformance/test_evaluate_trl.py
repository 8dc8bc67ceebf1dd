"""An adapter that TRL's SFTTrainer trained on conversations, evaluated as its user would: same tokens, a verdict."""

import importlib
import json

import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from gradience.cli.app import run
from gradience.evaluate.inputs import read_inputs
from gradience.evaluate.settings import evaluate_settings
from gradience.models.load import load_tokenizer
from gradience.models.locate import locate
from gradience.models.rendering import encode_pair
from gradience.models.settings import ModelSettings
from gradience.reports.evaluation import EvaluationPreview, EvaluationReport

pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore")]

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
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
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
    shown = EvaluationPreview.model_validate_json(capsys.readouterr().out).scored[0]
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
