"""lm-eval and Gradience on the same tasks, base and adapter: the same text, likelihoods and scores of every document.

All four output types, as local YAML tasks. The tiny Llama has a window of 128 tokens, so that long texts need several.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from gradience import evaluate_adapters
from gradience.files.records import read_records

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))
pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore")]

DATA = """dataset_path: json
dataset_kwargs: {{data_files: {{train: {train}, test: {test}}}}}
training_split: train
test_split: test
metadata: {{version: 1.0}}
"""
QUESTION = 'doc_to_text: "{{{{question}}}}"\n'
TASKS = {
    "answers": DATA + QUESTION + """output_type: generate_until
doc_to_target: "{{{{answer}}}}"
fewshot_split: train
num_fewshot: 2
generation_kwargs: {{until: ["\\n", "and"], do_sample: false, max_gen_toks: 12}}
filter_list:
- {{name: number, filter: [{{function: regex, regex_pattern: "(-?[0-9]+)"}}, {{function: take_first}}]}}
- {{name: whole, filter: [{{function: remove_whitespace}}, {{function: take_first}}]}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true, regexes_to_ignore: [","]}}]
""",
    "choices": DATA + QUESTION + """output_type: multiple_choice
doc_to_target: gold
doc_to_choice: choices
metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_bytes}}]
""",
    "several_prompts": DATA + """output_type: multiple_choice
doc_to_text: "{{{{gold}}}}"
doc_to_target: "= {{{{answer}}}}"
doc_to_choice: prompts
target_delimiter: " "
metric_list: [{{metric: acc}}]
""",
    "mutual_information": DATA + QUESTION + """output_type: multiple_choice
doc_to_target: gold
doc_to_choice: choices
metric_list: [{{metric: acc_mutual_info}}]
""",
    "endings": DATA + QUESTION + """output_type: loglikelihood
doc_to_target: " {{{{answer}}}}"
metric_list: [{{metric: perplexity}}, {{metric: acc}}]
""",
    "blank_before": DATA + """output_type: loglikelihood
doc_to_text: "{{{{question}}}} "
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
""",
    "texts": DATA + """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
""",
}  # fmt: skip


def rows(first: int, last: int) -> list[dict[str, object]]:
    return [
        {
            "question": f"{a} + {b} =",
            "answer": str(a + b),
            "choices": [str(a + b + 1), str(a + b), str(a * b + 100)],
            "prompts": [f"{a + 1} + {b}", f"{a} + {b}"],
            "gold": 1,
            "text": " and ".join(f"{a} + {b + k} = {a + b + k}" for k in range(1 + 7 * (a % 3))),
        }
        for a in range(first, last)
        for b in range(2, 7)
    ]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    files = {"train": rows(20, 24), "test": rows(2, 7)}
    for name, some in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    for name, text in TASKS.items():
        filled = text.format(train=folder / "train.jsonl", test=folder / "test.jsonl")
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{filled}")
    with pytest.MonkeyPatch.context() as patch:
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


@pytest.fixture(scope="module", params=["tiny", "begins every text", "embedded:smollm2"])
def base(request, tmp_path_factory):
    """(base, folder that lm-eval loads, adapter)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tiny_models import letters_tokenizer, llama
    from transformers import AutoModelForCausalLM, set_seed

    from gradience.models.locate import locate
    from gradience.models.settings import ModelSettings

    folder = tmp_path_factory.mktemp("base")
    if request.param.startswith("embedded:"):
        pytest.importorskip("gguf", reason="needs the extra `demo`")
        whole, scale = locate(ModelSettings(name=request.param), ("config.json",)).folder, 0.02
    else:
        whole, scale = folder / "base", 20.0
        model = llama()
        with torch.no_grad():  # lm-eval leaves special tokens out of a text, and we do not
            model.lm_head.weight[-4:] = 0.0
        model.save_pretrained(whole)
        letters_tokenizer(bos=request.param != "tiny").save_pretrained(whole)
    set_seed(1)
    model = AutoModelForCausalLM.from_pretrained(whole, dtype="float32")
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    peft = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                weight.mul_(scale)
    peft.save_pretrained(folder / "adapter")
    return (
        request.param if request.param.startswith("embedded:") else str(whole),
        str(whole),
        folder / "adapter",
    )


def theirs(
    tasks: Path, name: str, base: str, adapter: Path
) -> tuple[dict[str, float], dict[str, list[dict]]]:
    """Aggregates, and by filter the samples of every document."""
    lm_eval = pytest.importorskip("lm_eval", reason="needs lm-eval: make conformance")
    from lm_eval.tasks import TaskManager

    result = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": base, "peft": str(adapter), "dtype": "float32"},
        tasks=[str(tasks / f"{name}.yaml")],
        task_manager=TaskManager(include_defaults=False),
        batch_size=4,
        device="cpu",
        log_samples=True,
        bootstrap_iters=0,
    )
    samples: dict[str, list[dict]] = {}
    for sample in sorted(result["samples"][name], key=lambda one: one["doc_id"]):
        samples.setdefault(sample["filter"], []).append(sample)
    return result["results"][name], samples


def ours(tasks: Path, name: str, base: str, adapter: Path, out: Path, **options):
    evaluate_adapters(
        [adapter],
        base_model=base,
        task=f"lm_eval:{tasks / name}.yaml",
        options=options,
        output=out,
        dtype="float32",
        device="cpu",
    )
    return read_records(out / "records" / "adapter.jsonl").records


def test_answers(tasks, base, tmp_path):
    name, folder, adapter = base
    means, samples = theirs(tasks, "answers", folder, adapter)
    for decides in ("number", "whole"):
        records = ours(tasks, "answers", name, adapter, tmp_path / decides, filter=decides)
        for record, sample, other in zip(records, samples["number"], samples["whole"], strict=True):
            assert record.output == sample["resps"][0][0]
            assert (record.answers["number"] or "[invalid]") == sample["filtered_resps"][0]
            assert (record.answers["whole"] or "") == other["filtered_resps"][0]
            assert record.correct == {"number": sample, "whole": other}[decides]["exact_match"]
        assert np.mean([record.correct for record in records]) == pytest.approx(
            means[f"exact_match,{decides}"]
        )
        assert any(record.extracted for record in records)


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("choices", "acc"),
        ("choices", "acc_norm"),
        ("choices", "acc_bytes"),
        ("several_prompts", "acc"),
        ("mutual_information", "acc_mutual_info"),
    ],
)
def test_choices(tasks, base, tmp_path, task, metric):
    name, folder, adapter = base
    means, samples = theirs(tasks, task, folder, adapter)
    records = ours(tasks, task, name, adapter, tmp_path, metric=metric)
    for record, sample in zip(records, samples["none"], strict=True):
        likelihoods = [float(resps[0][0]) for resps in sample["resps"]]
        assert record.loglikelihoods == pytest.approx(likelihoods, abs=2e-3)
        assert record.correct == sample[metric]
    assert np.mean([record.correct for record in records]) == pytest.approx(means[f"{metric},none"])


@pytest.mark.parametrize("task", ["endings", "blank_before"])
def test_endings(tasks, base, tmp_path, task):
    name, folder, adapter = base
    means, samples = theirs(tasks, task, folder, adapter)
    records = ours(tasks, task, name, adapter, tmp_path)
    for record, sample in zip(records, samples["none"], strict=True):
        likelihood, greedy = sample["resps"][0][0]
        assert record.loglikelihood == pytest.approx(float(likelihood), abs=2e-3)
        assert str(record.correct) == str(greedy)
        assert record.correct == sample["acc"]
    assert np.mean([record.correct for record in records]) == pytest.approx(means["acc,none"])


def test_texts(tasks, base, tmp_path):
    name, folder, adapter = base
    means, samples = theirs(tasks, "texts", folder, adapter)
    records = ours(tasks, "texts", name, adapter, tmp_path)
    for record, sample in zip(records, samples["none"], strict=True):
        assert record.loglikelihood == pytest.approx(float(sample["resps"][0][0]), rel=1e-4, abs=2e-3)
    total = sum(record.loglikelihood for record in records)
    size = sum(len(sample["doc"]["text"].encode()) for sample in samples["none"])
    assert math.exp(-total / size) == pytest.approx(means["byte_perplexity,none"], rel=1e-4)
    assert -total / size / math.log(2) == pytest.approx(means["bits_per_byte,none"], rel=1e-4)
