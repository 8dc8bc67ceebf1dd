"""What is wrong with an evaluation is said before a model is loaded, each from a real small file."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import adapters_to_compare as data
import pytest

from gradience.cli.app import run
from gradience.errors import GradienceError
from gradience.evaluate import checks
from gradience.evaluate.inputs import read_inputs
from gradience.evaluate.settings import evaluate_settings
from gradience.reports.evaluation import EvaluationPreview

sys.path.append(str(Path(__file__).parents[1] / "bench"))
TEMPLATE = (
    "{% for m in messages %}{{ 'plot' if m['role'] == 'assistant' else 'film' }} {{ m['content'] }} [END] {% endfor %}"
    "{{ 'plot ' if add_generation_prompt }}"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Bases and one adapter of each kind; the causal base has a chat template."""
    root = tmp_path_factory.mktemp("checks")
    data.tiny_bench.bert(root / "bert")
    data.tiny_bench.llama(root / "llama")
    data.adapter(root / "labels", root / "bert", 1)
    data.adapter(root / "writes", root / "llama", 2, task="CAUSAL_LM")
    tokenizer = data.tiny_bench.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(root / "llama")
    return root


@pytest.fixture
def inputs(prepared, tmp_path, monkeypatch):
    """The inputs of an evaluation on these rows."""
    monkeypatch.setattr("gradience.models.load.load_base", lambda *_, **__: pytest.fail("a model is loaded"))

    def read(rows, **given):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        adapter, base = ("labels", "bert") if "text" in rows[0] else ("writes", "llama")
        settings = {
            "adapters": [prepared / adapter],
            "base_model": str(prepared / base),
            "data": file,
            "device": "cpu",
        }
        return read_inputs(evaluate_settings({**settings, **given}))

    return read


def prompts(*texts, answer="good"):
    return [{"prompt": text, "answer": answer} for text in texts]


def labeled(*texts):
    return [{"text": text, "label": ("bad", "good")[place % 2]} for place, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("rows", "given", "note"),
    [
        (
            prompts("a film", "a plot", "a film", "a film"),
            {},
            "2 rows of 4 repeat an earlier one: each text counts once",
        ),
        (
            [*prompts("a film", "a plot"), *prompts("a film", answer="bad")],
            {},
            "2 rows of 3 are left out: the same text with different answers",
        ),
        (
            prompts("a film", "film " * 61),
            {"max_new_tokens": 4},
            "1 of 2 prompts has more than 60 tokens (the longest has 61) and loses its beginning:"
            " the base's limit is 64 less 4 for the answer",
        ),
        (
            [{"prompt": "film " * 63, "choices": ["good", "bad"], "answer": 0}],
            {},
            "1 of 1 prompt has more than 64 tokens (the longest has 65) and loses its beginning:"
            " the base's limit is 64",
        ),
        (
            labeled("film " * 30, "a plot"),
            {"max_length": 20},
            "1 of 2 texts has more than 20 tokens (the longest has 30) and is truncated",
        ),
    ],
    ids=["repeated", "contradicting", "prompt", "choices", "text"],
)
def test_what_a_reader_must_know_is_noted(inputs, rows, given, note):
    assert any(note in each for each in inputs(rows, **given).notes)


@pytest.mark.parametrize(
    ("rows", "given", "code", "words"),
    [
        (
            [{"prompt": "a film", "answer": "good"}, {"prompt": "a plot"}],
            {},
            "task-text",
            "line 2: neither `completion`",
        ),
        ([{"prompt": "a film", "answer": " "}], {"task": "jsonl"}, "task-text", "line 1: neither"),
        (
            [{"text": "a film", "label": "good"}, {"text": "a plot"}],
            {},
            "task-column",
            "line 2: no column `label`",
        ),
        (
            prompts("a film", answer="film " * 64),
            {"max_new_tokens": 4},
            "response-too-long",
            "response has 65 tokens",
        ),
        (
            prompts("a film"),
            {"max_new_tokens": 64},
            "no-room",
            "leave no room for a prompt: the base is limited to 64",
        ),
        (
            labeled("film " * 520, "a"),
            {"max_length": 600},
            "max-length",
            "a text has 520 tokens, but the base's limit is 512",
        ),
        (
            [*labeled("a", "b"), {"text": "d", "label": "ugly"}],
            {},
            "labels-differ",
            "3",
        ),
        (
            prompts("a film"),
            {"base_model": "./no/base"},
            "model-not-found",
            "no/base: there is no such folder",
        ),
    ],
    ids=["field", "empty", "column", "response", "room", "text", "label", "base"],
)
def test_what_cannot_be_run_is_refused(inputs, rows, given, code, words):
    with pytest.raises(GradienceError, match=words) as error:
        inputs(rows, **given)
    assert error.value.code == code


def test_a_folder_without_weights_is_no_base(inputs, prepared, tmp_path):
    shutil.copytree(prepared / "bert", tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(GradienceError, match="empty: contains no weights"):
        inputs(labeled("a", "b"), base_model=str(tmp_path / "empty"))


def test_without_the_libraries_it_says_what_brings_them(inputs, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(GradienceError, match="transformers is not installed") as error:
        inputs(labeled("a film", "a plot"))
    assert error.value.code == "missing-extra"


# ---------------------------------------------------------------- memory


def test_memory_is_noted_where_it_is_short_and_refused_where_there_is_not_enough():
    assert list(checks.memory(5, 4, 6, 8)) == []
    (note,) = checks.memory(7_000_000_000, 4, 6_000_000_000, 8)
    assert "about 7.0 GB of memory are needed, and 6.0 GB are free" in note
    with pytest.raises(GradienceError) as error:
        list(checks.memory(10, 9, 6, 8))
    assert (error.value.code, error.value.exit_code) == ("out-of-memory", 5)


def test_weights_are_told_from_the_files_and_the_precision(inputs, prepared, monkeypatch):
    monkeypatch.setattr(checks, "memory_of", lambda _: (1000, 10**12))
    of = {dtype: inputs(labeled("a", "b"), dtype=dtype).notes for dtype in ("float32", "bfloat16")}
    assert all("of memory are needed, and 0.0 GB are free" in notes[0] for notes in of.values())
    size = sum(path.stat().st_size for path in (prepared / "bert").glob("*.safetensors"))
    monkeypatch.setattr(checks, "memory_of", lambda _: (10**12, size - 1))
    with pytest.raises(GradienceError, match="the base model takes about"):
        inputs(labeled("a", "b"))
    assert inputs(labeled("a", "b"), dtype="bfloat16").notes == (data.LABELS,)


# ---------------------------------------------------------------- preview


@pytest.mark.parametrize(
    ("rows", "prompt", "response", "scored", "extracted"),
    [
        (
            [{"prompt": "a film is", "completion": " very good"}],
            "a film is",
            "very good [END]",
            "very good",
            "very good",
        ),
        (
            [{"prompt": "a film", "choices": ["good", "bad"], "answer": 1}],
            "a film",
            "bad",
            "good | *bad",
            None,
        ),
        (
            [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bad"}]}],
            "film a [END] plot",
            "bad [END]",
            "bad",
            "bad",
        ),
        (labeled("a film", "a plot"), "a film", None, "bad", None),
    ],
    ids=["prompts", "choices", "messages", "labels"],
)
def test_a_preview_shows_what_the_model_sees_and_what_is_scored(
    prepared, tmp_path, monkeypatch, capsys, rows, prompt, response, scored, extracted
):
    monkeypatch.setattr("gradience.models.load.load_base", lambda *_, **__: pytest.fail("a model is loaded"))
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    adapter, base = ("labels", "bert") if "text" in rows[0] else ("writes", "llama")
    command = [
        "evaluate",
        str(prepared / adapter),
        "-b",
        str(prepared / base),
        "--data",
        str(file),
        "--preview",
    ]
    assert run([*command, "--json"]) == 0
    shown = EvaluationPreview.model_validate(json.loads(capsys.readouterr().out))
    by_prompt = {each.prompt.strip(): each for each in shown.scored}
    assert prompt in by_prompt, list(by_prompt)
    first = by_prompt[prompt]
    assert (first.scored, first.extracted) == (scored, extracted)
    assert first.correct == (None if extracted is None else True)
    assert (first.response or "").strip() == (response or "")
    assert run(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "no model was loaded" in out
    assert f'"{prompt}' in out


@pytest.mark.parametrize("labeled", [False, True])
def test_a_preview_reads_the_first_rows_of_a_file(prepared, tmp_path, capsys, labeled):
    row = {"text": "a film {}", "label": "good"} if labeled else {"prompt": "a film {}", "answer": "good"}
    text = json.dumps(row)
    lines = [text.replace("{}", str(n)) for n in range(1200)]
    lines.append(text.replace("{}", "x").replace('"good"', '"bad"') if labeled else "no JSON")
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines))
    adapter, base = ("labels", "bert") if labeled else ("writes", "llama")
    command = ["evaluate", str(prepared / adapter), "-b", str(prepared / base), "--data", str(file)]
    assert run([*command, "--preview", "--json"]) == 0
    shown = EvaluationPreview.model_validate(json.loads(capsys.readouterr().out))
    assert (shown.examples, len(shown.scored)) == (1000, 3)
    assert "a preview reads at most 1,000 examples of a file" in shown.notes
    if not labeled:
        assert run([*command, "--dry-run"]) == 3
        assert "line 1201: Expecting value" in capsys.readouterr().err
