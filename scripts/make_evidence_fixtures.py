"""Write the logs that the tests of evidence read: real tools, a real small model, two adapters. Nobody edits them.

python scripts/make_evidence_fixtures.py lm-eval   needs `pip install ".[demo]" lm-eval==0.4.13`; a minute
python scripts/make_evidence_fixtures.py inspect   needs inspect-ai 0.3.285 and ".[demo]", in an environment of its own
python scripts/make_evidence_fixtures.py every-eval-ever   needs every-eval-ever 0.3.0 (Python 3.12 or newer) alone

The base is SmolLM2-135M-Instruct as `gradience.models.embedded` has it. A is the base alone, B the base with a random
LoRA adapter: worse, and not by much. The files go to tests/evidence/logs/.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "tests" / "evidence" / "logs"
DOCS = 24
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
SUMS = """task: sums
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
output_type: generate_until
training_split: train
fewshot_split: train
test_split: test
num_fewshot: 2
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], do_sample: false, temperature: 0.0, max_gen_toks: 8}
filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: "^\\\\s*(-?\\\\d+)\\\\s*$"}, {function: take_first}]}
  - name: flexible-extract
    filter: [{function: regex, group_select: -1, regex_pattern: "(-?\\\\d+)"}, {function: take_first}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
ORDERS = """task: orders
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{smaller}} is"
doc_to_choice: ["less", "more"]
doc_to_target: "{{label}}"
target_delimiter: " "
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}, {metric: brier_score, higher_is_better: false}]
metadata: {version: 1.0}
"""


def rows() -> list[dict[str, object]]:
    """Sums of two numbers, and comparisons of them."""
    numbers = []
    for number in range(DOCS + 4):
        a, b, c = 3 + number * 7 % 40, 2 + number * 5 % 9, 1 + number * 11 % 50
        numbers.append(
            {
                "question": f"{a} + {b} =",
                "answer": str(a + b),
                "smaller": f"{a} apples or {c} apples: {a}, compared with {c},",
                "label": int(a >= c),
            }
        )
    return numbers


def write_rows(folder: Path) -> None:
    lines = [json.dumps(row) + "\n" for row in rows()]
    (folder / "train.jsonl").write_text("".join(lines[DOCS:]), encoding="utf-8")
    (folder / "test.jsonl").write_text("".join(lines[:DOCS]), encoding="utf-8")


def random_adapter(base: Path, folder: Path) -> Path:
    """A LoRA adapter of random factors, written by PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(42)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def lm_eval() -> None:
    """Two runs of lm-eval's own command line over two tasks, each with its samples and results."""
    sys.path.insert(0, str(ROOT))
    from gradience.models.embedded import smollm2

    base = smollm2()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder)
        for task, text in (("sums", SUMS), ("orders", ORDERS)):
            (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
        (folder / "base").symlink_to(base)
        random_adapter(base, folder / "adapter")
        for side, more in (
            ("a", ""),
            ("b", ",peft=adapter"),
        ):  # relative: no log names a folder of this machine
            subprocess.run(
                [
                    sys.executable, "-m", "lm_eval", "run", "--model", "hf",
                    "--model_args", f"pretrained=base,dtype=float32{more}", "--tasks", "sums,orders",
                    "--include_path", ".", "--batch_size", "8", "--device", "cpu", "--log_samples",
                    "--output_path", side,
                ],
                check=True, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{name}/cache"},
            )  # fmt: skip
            place = LOGS / "lm_eval" / side
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for path in (folder / side).rglob("*.jsonl"):
                shutil.copy(path, place)
            for path in (folder / side).rglob("results_*.json"):
                results = json.loads(path.read_text(encoding="utf-8"))
                del results["pretty_env_info"]  # of the machine, and longer than all else
                (place / path.name).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


INSPECT_TASK = """import json
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message


@task
def larger():
    samples = []
    for number, line in enumerate(open("test.jsonl"), start=1):
        choice = json.loads(line)["smaller"].partition(":")[0]
        target = max((word for word in choice.split() if word.isdigit()), key=int)
        samples.append(Sample(id=number, input=f"Which is more, {choice}? Say the number.", target=target))
    return Task(dataset=samples, solver=[system_message("You compare numbers."), generate()], scorer=includes())
"""


def inspect() -> None:
    """Two runs of inspect's own command line: the base, and the base with the adapter merged into it."""
    sys.path.insert(0, str(ROOT))
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gradience.models.embedded import smollm2

    base = smollm2()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder)
        (folder / "larger.py").write_text(INSPECT_TASK, encoding="utf-8")
        (folder / "base").symlink_to(base)
        model = AutoModelForCausalLM.from_pretrained(base)
        merged = PeftModel.from_pretrained(model, random_adapter(base, folder / "adapter")).merge_and_unload()
        merged.save_pretrained(folder / "merged")
        AutoTokenizer.from_pretrained(base).save_pretrained(folder / "merged")
        for side, model_path in (("a", "base"), ("b", "merged")):
            subprocess.run(
                [
                    sys.executable, "-m", "inspect_ai", "eval", "larger.py", "--model", "hf/local",
                    "-M", f"model_path={model_path}", "-M", "device=cpu", "-M", "do_sample=false", "--max-tokens", "12",
                    "--display", "plain", "--log-dir", side,
                ],
                check=True, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip
            place = LOGS / "inspect"
            place.mkdir(parents=True, exist_ok=True)
            (log,) = (folder / side).glob("*.eval")
            shutil.copy(log, place / f"{side}.eval")
            repacked(log, place / f"{side}_deflated.eval")


def repacked(log: Path, target: Path) -> None:
    """The header and eight samples, deflated, as earlier versions of inspect pack them: read without zstandard."""
    import zipfile

    import zipfile_zstd  # noqa: F401 (lets zipfile read Zstandard)

    with zipfile.ZipFile(log) as packed, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        samples = sorted(name for name in packed.namelist() if name.startswith("samples/"))[:8]
        for name in [*samples, "header.json"]:
            archive.writestr(zipfile.ZipInfo(name), packed.read(name), zipfile.ZIP_DEFLATED)


def every_eval_ever() -> None:
    """The logs of lm-eval as `every_eval_ever convert` makes records of them: the task `orders`."""
    with tempfile.TemporaryDirectory() as name:
        for side in "ab":
            source = Path(name) / side
            shutil.copytree(LOGS / "lm_eval" / side, source / "base")
            (results,) = source.rglob("results_*.json")
            content = json.loads(results.read_text(encoding="utf-8"))
            content["config"]["model_args"]["pretrained"] = HUB_NAME  # a developer is asked for
            results.write_text(json.dumps(content), encoding="utf-8")
            output = Path(name) / f"{side}_records"
            subprocess.run(
                [
                    sys.executable, "-m", "every_eval_ever", "convert", "lm_eval", "--log_path", str(results),
                    "--output_dir", str(output), "--include_samples",
                ],
                check=True,
            )  # fmt: skip
            place = LOGS / "every_eval_ever" / side
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for path in (output / "orders").rglob("*.json*"):
                shutil.copy(path, place)


MAKERS = {"lm-eval": lm_eval, "inspect": inspect, "every-eval-ever": every_eval_ever}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tool", choices=MAKERS)
    MAKERS[parser.parse_args().tool]()


if __name__ == "__main__":
    main()
