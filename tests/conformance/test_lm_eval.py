"""lm-eval and Gradience on the same tasks: the same texts, likelihoods, extractions and scores; its logs."""

import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from data_files import write_jsonl
from gsm8k_cases import CASES, QUESTIONS

from gradience import compare_logs, evaluate_adapters
from gradience.files.records import read_records
from gradience.tasks import gsm8k
from gradience.tasks.user_code import allowing

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
        write_jsonl(folder / f"{name}.jsonl", some)
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
    with allowing(True):  # an lm-eval definition can run code
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


# ---------------------------------------------------------------- The same outputs through


OURS = {"strict-match": gsm8k.strict, "flexible-extract": gsm8k.flexible}
INVALID = "[invalid]"

Row = dict[str, str]
Pair = tuple[str, Row]
"""An output, and the row that it answers."""


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """lm-eval's task, with rows of our own in place of the hub's."""
    lm_eval = pytest.importorskip("lm_eval", reason="needs lm-eval: make conformance")
    import datasets
    import yaml
    from lm_eval.api.task import ConfigurableTask

    folder = tmp_path_factory.mktemp("rows")
    rows = write_jsonl(folder / "rows.jsonl", QUESTIONS)
    text = (Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    assert config["metadata"]["version"] == 3.0
    files = {"data_files": {"train": str(rows), "test": str(rows)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        return ConfigurableTask(
            config={**config, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": files}
        )


def random_outputs(count: int) -> Iterator[str]:
    """Strings of what filters stumble over, and a few of any characters at all."""
    draw = random.Random(20_261_125)
    pieces = [
        *"0123456789.,$-#% \n", "#### ", "#### -", "####", "Question:", "</s>", "1,080", "$18", "42.0", "-5",
        "so", " apples", "−", "٣", "<<1+2=3>>", "é", "\x00", "\x1c", "\u2028", "\r", "\t", "İ",
    ]  # fmt: skip
    for number in range(count):
        if number % 10:
            yield "".join(draw.choices(pieces, k=draw.randint(0, 12)))
        else:
            points = [
                draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)]) for _ in range(12)
            ]
            yield "".join(map(chr, points))


def of_our_own() -> Iterator[Pair]:
    outputs = [case[0] for case in CASES.values()] + list(random_outputs(6000))
    for number, output in enumerate(outputs):
        row = QUESTIONS[number % len(QUESTIONS)]
        yield output, row
        yield f"{output}\n{row['answer']}", row
        yield f"{output} {row['answer'].rpartition('#### ')[2]}", row


def verdicts_differ(harness, pairs: list[Pair]) -> tuple[list[object], int]:
    """Where we and lm-eval do not agree on extraction or verdict; and how many were right, to see that some are."""
    from lm_eval.api.instance import Instance

    rows = [row for _, row in pairs]
    harness._instances = [
        Instance(request_type="generate_until", doc=row, arguments=("", {}), idx=0, resps=[output])
        for output, row in pairs
    ]
    harness.apply_filters()
    differ: list[object] = []
    right = 0
    for instance, row in zip(harness._instances, rows, strict=True):
        gold = row["answer"].rpartition("####")[2].strip()
        for name, extract in OURS.items():
            theirs = instance.filtered_resps[name]
            ours = extract(instance.resps[0])
            verdict = harness.process_results(row, [theirs])["exact_match"] == 1
            right += verdict
            if (theirs, verdict) != (
                INVALID if ours is None else ours,
                bool(ours and gsm8k.same(ours, gold)),
            ):
                differ.append((name, instance.resps[0], theirs, verdict))
    return differ, right


def test_the_outputs_of_our_own(harness):
    pairs = list(of_our_own())
    differ, right = verdicts_differ(harness, pairs)
    assert len(pairs) > 18_000
    assert right > 10_000
    assert not differ


def test_prompt_target_and_stop_strings(harness):
    for row in QUESTIONS:
        prompt = f"Question: {row['question']}\nAnswer:"
        assert harness.doc_to_text(row) == prompt
        assert harness.doc_to_target(row) == row["answer"]
    assert harness.config.target_delimiter == " "
    assert tuple(harness.config.generation_kwargs["until"]) == gsm8k.STOP


# ---------------------------------------------------------------- lm-eval runs anew, and what it writes is


TASK = """task: echo
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


def test_what_lm_eval_writes_today_is_read(tmp_path):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Table(LM):
        """Answers correctly but for every `step`-th question."""

        def __init__(self, step):
            super().__init__()
            self.step = step

        def generate_until(self, requests):
            texts = [request.args[0] for request in requests]
            return ["wrong" if int(text.split()[-1]) % self.step == 0 else text.upper() for text in texts]

        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    questions = [f"question {number}" for number in range(60)]
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"question": q, "answer": q.upper()} for q in questions])
    (tmp_path / "echo.yaml").write_text(TASK.format(rows=rows))
    for name, step in (("a", 10), ("b", 6)):
        tracker = EvaluationTracker(output_path=str(tmp_path / name))
        results = lm_eval.simple_evaluate(
            model=Table(step),
            tasks=["echo"],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            log_samples=True,
            evaluation_tracker=tracker,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        tracker.save_results_samples(task_name="echo", samples=samples["echo"])
    report = compare_logs(tmp_path / "a", tmp_path / "b")
    wrong = [{number for number in range(60) if number % step == 0} for step in (10, 6)]
    assert (report.n, report.task, report.metric) == (60, "echo", "exact_match")
    assert (report.table.n10, report.table.n01) == (len(wrong[1] - wrong[0]), len(wrong[0] - wrong[1]))
    assert report.table.n00 == len(wrong[0] & wrong[1])
