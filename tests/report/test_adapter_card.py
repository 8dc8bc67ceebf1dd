"""`gradience card`: what the block says is what the files say, and it is written where the block belongs."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from raising import raises

from gradience.card import card_of, read_evaluation
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.compress.carry import COPIED_CARD
from gradience.errors import InputError
from gradience.files.card import BEGIN, CARD, END, without_block
from gradience.reports.compression import CompressionReport
from gradience.reports.shrink import ShrinkReport

SHRUNK = Path(__file__).parents[2] / "benchmarks" / "results" / "minilm_shrink" / "shrink.json"


@pytest.fixture(scope="module")
def smaller(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "adapter"
    assert run(["compress", str(example_adapter()), "--rank", "4", "-o", str(folder), "-q"]) == 0
    return folder


def facts(block: str) -> dict[str, str]:
    return dict(re.findall(r"^- \*\*(.+?)\*\*: (.+)$", block, flags=re.MULTILINE))


def evidence_about(folder: Path, place: Path) -> Path:
    """A real search's evidence, as if its first candidate were the adapter in `folder`."""
    report = ShrinkReport.read(SHRUNK)
    old = report.candidates[0].result.sha256
    weights = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    path = place / "shrink.json"
    path.write_text(SHRUNK.read_text(encoding="utf-8").replace(str(old), weights), encoding="utf-8")
    return path


def text_of(card: bytes) -> str:
    """What is not ours, and not the YAML."""
    return ModelCard(without_block(card).decode()).text


def energy_ranks(folder: Path) -> list[int]:
    """k@90 of each module; the file is read by hand."""
    data = (folder / "adapter_model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])

    def factor(name: str) -> np.ndarray:
        low, high = entries[name]["data_offsets"]
        flat = np.frombuffer(data[start + low : start + high], dtype=ml_dtypes.bfloat16)
        return flat.reshape(entries[name]["shape"]).astype(np.float64)

    ranks = []
    for name in entries:
        if ".lora_A." in name:
            a, b = factor(name), factor(name.replace("lora_A", "lora_B"))
            energies = np.sort(np.linalg.eigvals((b.T @ b) @ (a @ a.T)).real)[::-1]  # those of ΔWᵀΔW
            ranks.append(int((energies.cumsum() < 0.9 * energies.sum()).sum()) + 1)
    return ranks


def test_compress_writes_the_block_and_card_finds_nothing_to_change(smaller, command):
    before = (smaller / CARD).read_bytes()
    said = facts(before.decode())
    report = CompressionReport.read(smaller / "compression_report.json")
    assert said["LoRA parameters"] == f"{report.new_params:,} (reference adapter: {report.old_params:,})"
    assert said["reference adapter"] == f"sha256 {report.source_sha256}"
    assert (
        f"rank 8 → 4, same scale, relative error of the update {100 * report.measured_error:.1f} %"
        in before.decode()
    )
    assert text_of(before) == text_of((example_adapter() / CARD).read_bytes())
    assert before.split(END)[0].decode().endswith(f"\n\n{COPIED_CARD}\n")
    assert not {"training.json", "training_log.jsonl"} & {path.name for path in smaller.iterdir()}
    facts_in_json = json.loads(command("card", smaller, "--json").out)
    assert facts_in_json["changed"] is False
    assert facts_in_json["block"].strip().encode() in before
    assert (smaller / CARD).read_bytes() == before


def test_of_an_original_it_says_what_the_spectra_say(tmp_path, capsys):
    folder = shutil.copytree(example_adapter(), tmp_path / "mine")
    (folder / CARD).unlink()
    assert run(["card", str(folder)]) == 0
    text = (folder / CARD).read_text(encoding="utf-8")
    ks = energy_ranks(folder)
    assert f"energy is in {np.median(ks):g} directions (median module)" in facts(text)["energy"]
    assert facts(text)["LoRA rank"] == f"8 in {len(ks)} modules"
    assert (
        'AutoPeftModelForSequenceClassification.from_pretrained("path/to/this/folder", num_labels=2)' in text
    )
    assert "smaller approximation" not in text
    assert COPIED_CARD not in text
    assert "written" in capsys.readouterr().err


def test_the_evaluation_above_the_folder_is_shown_with_bound_and_grade(smaller, tmp_path, command):
    folder = shutil.copytree(smaller, tmp_path / "adapter")
    report = ShrinkReport.read(evidence_about(folder, tmp_path))
    row = report.candidates[0].result
    said = facts(command("card", folder, "--dry-run").out)
    assert said["grade"] == f"{row.grade}: {row.reason}"
    assert row.pairs.low < row.bounds.low < 0
    bound = f"(one-sided 95 % bound −{-100 * row.bounds.low:.2f})"
    assert said["Δ from the reference adapter"].endswith(bound)
    assert f"{-100 * row.bounds.low:.2f} points lower" in said["grade"]
    assert said["correct"].startswith(f"{row.correct:,} / {row.n:,} ")


def test_an_evaluation_of_another_adapter_is_refused_or_left_out(smaller, tmp_path):
    other = tmp_path / "shrink.json"
    other.write_text(SHRUNK.read_text().replace('"sha256": "', '"sha256": "other'))
    shutil.copytree(smaller, tmp_path / "adapter")
    assert "grade" not in facts(card_of(tmp_path / "adapter").block)
    with raises(InputError, "other-adapter", "does not cover these weights"):
        card_of(smaller, read_evaluation(other))


def test_no_name_of_a_stranger_ends_the_block(tmp_path):
    folder = shutil.copytree(example_adapter(), tmp_path / "mine")
    config = json.loads((folder / "adapter_config.json").read_text())
    config.pop("auto_mapping")  # names an architecture that vLLM refuses
    name = "x\n```\n<!-- /gradience:card -->\n# Mine"
    config |= {"base_model_name_or_path": name, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    kept = (folder / CARD).read_bytes()
    assert run(["card", str(folder)]) == 0
    once = (folder / CARD).read_bytes()
    assert (once.count(BEGIN), once.count(END)) == (1, 1)
    assert text_of(once) == text_of(kept)
    assert run(["card", str(folder)]) == 0
    assert (folder / CARD).read_bytes() == once
    assert b"vllm serve" not in once  # vLLM was not run on an adapter of an unknown architecture


def test_a_file_has_no_card(command):
    assert "not a folder" in command("card", example_adapter() / "adapter_model.safetensors", code=3).err


def test_an_evaluation_that_the_card_loses_is_said(tmp_path, command):
    folder = shutil.copytree(example_adapter(), tmp_path / "adapter")
    card = folder / "README.md"
    card.write_text("<!-- gradience:card -->\n| evaluated on | 100 examples |\n<!-- /gradience:card -->\n")
    said = command("card", folder).err
    assert "the card has an evaluation" in said
    assert "--evaluation FILE" in said
    assert "the card has an evaluation" not in command("card", folder).err


def test_the_yaml_is_what_the_hub_reads_and_everything_else_in_it_stays(tmp_path):
    folder = shutil.copytree(example_adapter(), tmp_path / "adapter")
    about = {"task_type": "x", "dataset_type": "d", "dataset_name": "d", "metric_type": "f1"}
    mine = {"license": "apache-2.0", "license_name": "mine", "tags": ["a", "lora"], "language": ["de"]}
    results = [EvalResult(**about, metric_value=0.5)]
    data = ModelCardData(**mine, model_name="theirs", eval_results=results, custom={"b": [1]})
    (folder / CARD).write_text(f"---\n{data.to_yaml()}\n---\n# Text\n\n| a |\n")
    assert run(["card", str(folder)]) == 0
    read = ModelCard.load(folder / CARD)
    expected = {
        **mine,
        "custom": {"b": [1]},
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "model-index": data.to_dict()["model-index"],
    }
    assert read.data.to_dict() == expected
    assert read.text.endswith("# Text\n\n| a |\n")
    once = (folder / CARD).read_bytes()
    assert run(["card", str(folder)]) == 0
    assert (folder / CARD).read_bytes() == once

    # Results of the original do not describe a smaller adapter; those of its own evaluation do.
    smaller = tmp_path / "smaller"
    assert run(["compress", str(folder), "--rank", "4", "-o", str(smaller), "-q"]) == 0
    assert "model-index" not in ModelCard.load(smaller / CARD).data.to_dict()
    evidence = evidence_about(smaller, tmp_path)
    report = ShrinkReport.read(evidence)
    row = report.candidates[0].result
    for _ in range(2):
        assert run(["card", str(smaller), "--evaluation", str(evidence)]) == 0
        accuracy, difference = ModelCard.load(smaller / CARD).data.eval_results
        assert accuracy.task_type == "text-classification"
        assert (accuracy.dataset_name, accuracy.dataset_split) == (report.task, "test")
        assert accuracy.metric_value == pytest.approx(row.correct / row.n, abs=1e-6)
        assert difference.metric_value == pytest.approx(row.pairs.delta, abs=1e-6)
        assert difference.metric_args["bound"] == pytest.approx(row.bounds.low, abs=1e-6)
        assert (difference.metric_args["grade"], difference.metric_args["examples"]) == (row.grade, row.n)


@pytest.mark.parametrize("yaml", ["a: [", "- a list", "1: 2", "model-index: 5", "a: &a [*a]"])
def test_yaml_that_cannot_be_read_is_an_error_of_card_and_stays_in_a_compression(yaml, tmp_path, capsys):
    folder = shutil.copytree(example_adapter(), tmp_path / "adapter")
    text = f"---\n{yaml}\n---\n# Mine\n"
    (folder / CARD).write_text(text)
    code = run(["card", str(folder)])
    if code:
        assert code == 3
        assert "its front matter is not valid YAML" in capsys.readouterr().err
        assert (folder / CARD).read_text() == text
    assert run(["compress", str(folder), "--rank", "4", "-o", str(tmp_path / "smaller"), "-q"]) == 0
    card = (tmp_path / "smaller" / CARD).read_text()
    assert card.endswith("# Mine\n")
    assert card.startswith(f"---\n{yaml}\n---\n") == bool(code)


def test_without_huggingface_hub_a_compression_writes_the_block_only(tmp_path, monkeypatch):
    monkeypatch.setattr("gradience.files.card.find_spec", lambda name: None)
    assert (
        run(["compress", str(example_adapter()), "--rank", "4", "-o", str(tmp_path / "smaller"), "-q"]) == 0
    )
    assert (
        without_block((tmp_path / "smaller" / CARD).read_bytes()) == (example_adapter() / CARD).read_bytes()
    )
