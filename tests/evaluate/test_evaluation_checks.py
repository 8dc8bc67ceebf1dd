"""What is wrong with an evaluation is said before a model is loaded, each from a real small file."""

import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import adapters_to_compare as data
import pytest
import torch
import yaml
from data_files import write_jsonl
from factory import edit_config
from raising import raises
from tiny_models import letters_tokenizer, llama, llama_adapter, sums

from gradience import evaluate_adapters
from gradience.adapters import config as adapter_config
from gradience.errors import GradienceError, InputError, OutputError
from gradience.evaluate import checks
from gradience.evaluate.adapters import short_names
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.evaluate.forecast import DISCORDANCES, margins_of
from gradience.evaluate.inputs import read_inputs
from gradience.evaluate.settings import evaluate_settings
from gradience.models.load import load_base
from gradience.models.settings import ModelSettings
from gradience.reports.evaluation import EvaluationForecast, smallest_margin_text
from gradience.statistics.power import Assumptions
from gradience.tasks.user_code import allowing

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
        adapter, base = ("labels", "bert") if "text" in rows[0] else ("writes", "llama")
        settings = {"adapters": [prepared / adapter], "base_model": str(prepared / base), "device": "cpu"}
        settings["data"] = write_jsonl(tmp_path / "rows.jsonl", rows)
        return read_inputs(evaluate_settings({**settings, **given}))

    return read


def prompts(*texts, answer="good"):
    return [{"prompt": text, "answer": answer} for text in texts]


def labeled(*texts):
    return [{"text": text, "label": ("bad", "good")[place % 2]} for place, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("rows", "given", "note"),
    [
        (prompts("a", "is", "a", "a"), {}, "2 rows of 4 repeat an earlier one: each text counts once"),
        (
            [*prompts("a", "is"), *prompts("a", answer="bad")],
            {},
            "2 rows of 3 are left out: the same text with different answers",
        ),
        (
            prompts("a", "film " * 61),
            {"max_new_tokens": 4},
            "1 of 2 prompts has more than 60 tokens (the longest has 61) and loses its beginning:"
            " the base's limit is 64 less 4 for the answer",
        ),
        (
            [{"prompt": "film " * 63, "choices": ["good", "bad"], "answer": 0}],
            {},
            "1 of 1 prompt has more than 64 tokens (the longest has 65) and loses its beginning:",
        ),
        (
            labeled("film " * 30, "a"),
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
        (prompts("a", answer="film " * 64), {"max_new_tokens": 4}, "response-too-long", "has 65 tokens"),
        (prompts("a"), {"max_new_tokens": 64}, "no-room", "no room for a prompt: the base is limited to 64"),
        (labeled("film " * 520, "a"), {"max_length": 600}, "max-length", "520 tokens, but the base's limit is 512"),
        ([*labeled("a", "b"), {"text": "d", "label": "ugly"}], {}, "labels-differ", "3"),
        (prompts("a"), {"base_model": "./no/base"}, "model-not-found", "no/base: no such folder"),
    ],
    ids=["response", "room", "text", "label", "base"],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(inputs, rows, given, code, words):
    with raises(GradienceError, code, words):
        inputs(rows, **given)


def test_an_adapter_of_another_architecture_or_size_is_refused(inputs, prepared, tmp_path):
    data.tiny_bench.llama(tmp_path / "wide", hidden_size=64)
    for rows, base, says in (
        (
            labeled("a", "b"),
            prepared / "llama",
            "labels does not fit llama: the base has no modules named query, value",
        ),
        (prompts("a"), tmp_path / "wide", "q_proj is 64 x 64 there, and 32 x 32 in the adapter"),
    ):
        with raises(InputError, "adapter-misfit", says) as error:
            inputs(rows, base_model=str(base))
        assert error.value.hint.startswith("use the base that it was trained on: ")


def test_an_adapter_of_parameters_alone_fits_its_base(inputs, prepared, tmp_path):
    lora = {"target_modules": [], "target_parameters": ["q_proj.weight"], "lora_dropout": 0.0}
    data.adapter(tmp_path / "adapter", prepared / "llama", 1, task="CAUSAL_LM", **lora)
    assert inputs(prompts("a", "is"), adapters=[tmp_path / "adapter"]).adapters[0].sizes


def test_a_folder_without_weights_is_no_base(inputs, prepared, tmp_path):
    shutil.copytree(prepared / "bert", tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(GradienceError, match="empty: contains no weights"):
        inputs(labeled("a", "b"), base_model=str(tmp_path / "empty"))


def test_without_the_libraries_it_says_what_brings_them(inputs, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with raises(GradienceError, "missing-extra", "transformers is not installed"):
        inputs(labeled("a film", "a plot"))


# ---------------------------------------------------------------- memory


def test_memory_is_noted_where_it_is_short_and_refused_where_there_is_not_enough():
    assert list(checks.memory(5, 4, 6, 8)) == []
    (note,) = checks.memory(7_000_000_000, 4, 6_000_000_000, 8)
    assert "about 7.0 GB of memory are needed, and 6.0 GB are free" in note
    with raises(OutputError, "out-of-memory"):
        list(checks.memory(10, 9, 6, 8))


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


CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bad"}]


@pytest.fixture
def preview(prepared, tmp_path):
    """Return a function that writes lines to a file and returns the command that previews it."""

    def of(lines):
        (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
        adapter, base = ("labels", "bert") if '"text"' in lines[0] else ("writes", "llama")
        command = ["evaluate", str(prepared / adapter), "-b", str(prepared / base)]
        return [*command, "--data", str(tmp_path / "rows.jsonl"), "--preview"]

    return of


@pytest.mark.parametrize(
    ("rows", "prompt", "response", "scored", "extracted"),
    [
        ([{"prompt": "a film is", "completion": " very good"}], "a film is", "very good [END]", *["very good"] * 2),
        ([{"prompt": "a", "choices": ["good", "bad"], "answer": 1}], "a", "bad", "good | *bad", None),
        ([{"messages": CHAT}], "film a [END] plot", "bad [END]", "bad", "bad"),
        (labeled("a film", "a plot"), "a film", "", "bad", None),
    ],
    ids=["prompts", "choices", "messages", "labels"],
)  # fmt: skip
def test_a_preview_shows_what_the_model_sees_and_what_is_scored(
    preview, monkeypatch, command, rows, prompt, response, scored, extracted
):
    monkeypatch.setattr("gradience.models.load.load_base", lambda *_, **__: pytest.fail("a model is loaded"))
    words = preview(list(map(json.dumps, rows)))
    shown = EvaluationForecast.model_validate(json.loads(command(*words, "--json").out))
    first = {each.prompt.strip(): each for each in shown.scored}[prompt]
    assert (first.scored, first.extracted, (first.response or "").strip()) == (scored, extracted, response)
    assert first.correct == (None if extracted is None else True)
    out = " ".join(command(*words).out.split())
    assert "no model was loaded" in out
    assert f'"{prompt}' in out


# ---------------------------------------------------------------- Margins and names


def test_margins_shrink_with_examples_and_grow_with_discordance_and_claims():
    margin = Fraction("0.05")  # shown at a discordance that is not among the assumed ones
    several, few, many = (
        margins_of(*given) for given in ((200, margin, 3), (200, margin, 1), (2_000, margin, 1))
    )
    assert sorted(each.margin for each in few) == [each.margin for each in few]
    at = [{row.discordance: row.margin for row in rows} for rows in (several, few, many)]
    assert all(at[0][share] > at[1][share] > at[2][share] for share in DISCORDANCES)


@pytest.mark.parametrize(("examples", "share"), [(500, "3.9 %"), (1500, "14.5 %")])
def test_the_share_of_changed_answers_is_the_largest_that_the_margin_allows(examples, share):
    margin, share_of_one = Fraction("0.025"), float(share[:-2]) / 100
    margins = margins_of(examples, margin, 1)
    text = smallest_margin_text(examples, margin, margins, ())
    assert (
        f"if at most {share} of the answers change between right and wrong (equally good adapters)." in text
    )
    looked = smallest_margin_text(examples, margin, margins, (200, examples))
    assert "(equally good adapters, counting only the last of 2 looks)." in looked
    assert Assumptions(share_of_one).examples_needed(0.025) <= examples
    assert examples < Assumptions(share_of_one + 0.001).examples_needed(0.025)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/runs/adapter", "/mine/adapter"], ["runs", "mine"]),
        (["/runs/a/adapter", "/mine/a/adapter", "/mine/b"], ["runs", "mine", "b"]),
        (["/mine/Adapter", "/mine/adapter/b", "/yours/adapter"], ["mine", "b", "yours"]),
        (["/small/adapter", "/mine/adapter", "/x/small"], ["small-adapter", "mine-adapter", "x-small"]),
        (["/x/base"], ["x-base"]),
        (["/base"], ["1-base"]),
    ],
)
def test_a_name_that_several_folders_share_gives_way_to_the_one_above(paths, names):
    assert short_names([Path(path) for path in paths]) == names


# ---------------------------------------------------------------- The config of `gradience evaluate`


WHOLE = {
    "adapters": ["a", "/abs/b"],
    "base_model": "./base",
    "data": "rows.jsonl",
    "options": {"scorer": "number"},
    "output": "out",
    "margin": 5,
    "limit": 7,
    "with_base": True,
}


@pytest.fixture
def config(tmp_path):
    """Writes a config into a folder that is not the working directory, and returns its path."""

    def write(values):
        path = tmp_path / "project" / "evaluate.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def test_paths_start_at_the_folder_of_the_file(config):
    path = config(WHOLE)
    request, folder = evaluate_settings({}, path), path.parent
    assert [str(each) for each in request.adapters] == [f"{folder}/a", "/abs/b"]
    assert (request.data, request.output, request.folder) == (folder / "rows.jsonl", folder / "out", folder)
    assert request.base_model == f"{folder}/base"
    assert (str(request.margin), request.limit, request.with_base) == ("5", 7, True)
    assert (
        evaluate_settings({}, config(WHOLE | {"folder": ".."})).data.resolve() == folder.parent / "rows.jsonl"
    )


@pytest.mark.parametrize("name", ["org/name", "gpt2", "embedded:minilm"])
def test_a_name_of_the_hub_is_no_path_unless_such_a_folder_is_there(config, name):
    path = config(WHOLE | {"base_model": name})
    assert evaluate_settings({}, path).base_model == name
    (path.parent / "gpt2").mkdir()
    assert (evaluate_settings({}, path).base_model == str(path.parent / "gpt2")) == (name == "gpt2")


def test_what_is_given_takes_the_place_of_what_the_file_says(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = config(WHOLE | {"task": "chat"})
    given = {"limit": 3, "options": {"max_new_tokens": 4}, "output": "here", "task": "mine.py"}
    request = evaluate_settings(given, path)
    assert (request.limit, str(request.output), str(request.task)) == (3, "here", str(tmp_path / "mine.py"))
    assert request.options == {"scorer": "number", "max_new_tokens": 4}
    assert evaluate_settings({"data": tmp_path / "x.csv"}, path).data == tmp_path / "x.csv"


@pytest.mark.parametrize(
    ("values", "given", "exit_code", "said", "hint"),
    [
        ({"adaptors": ["a"]}, {}, 3, "evaluate.yaml: unknown key `adaptors`", "did you mean `adapters`?"),
        ({"margin": "much"}, {}, 3, "`margin`: 'much' is not a number such as 0.5", "configs.md"),
        ({"allow_code": True}, {}, 3, "unknown key `allow_code`", "configs.md"),
        (
            {},
            {"role": "train"},
            2,
            "--role train: must be 'test' or 'dev'",
            "--help describes --role",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(config, values, given, exit_code, said, hint):
    with pytest.raises(GradienceError) as error:
        evaluate_settings(given, config(values))
    assert error.value.exit_code == exit_code
    assert said in str(error.value)
    assert hint in error.value.hint


def test_options_and_a_task_file_start_at_its_folder_too(config, monkeypatch):
    path = config({"adapters": [], "task": "mine.py", "options": {"file": "rows.jsonl"}})
    (path.parent / "rows.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n', encoding="utf-8")
    (path.parent / "mine.py").write_text(
        "from pathlib import Path\n\nfrom gradience.tasks.jsonl import load as rows\n\n\n"
        "def load(file: Path):\n    raise ValueError(str(file))\n"
    )
    monkeypatch.setattr("gradience.evaluate.inputs.read_adapters", lambda request: ())
    with allowing(), pytest.raises(ValueError, match=str(path.parent / "rows.jsonl")):
        read_inputs(evaluate_settings({}, path))


# ---------------------------------------------------------------- Bases and adapter configs of strangers


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strangers") / "base"
    llama().save_pretrained(folder)
    letters_tokenizer().save_pretrained(folder)
    return folder


def test_a_base_that_the_adapter_names_is_not_unpickled(tmp_path, base):
    """A user may name such a base; an adapter may not."""
    pickled = shutil.copytree(base, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(llama().state_dict(), pickled / "pytorch_model.bin")
    adapter = edit_config(llama_adapter(tmp_path / "adapter", 1), base_model_name_or_path=str(pickled))
    rows = write_jsonl(
        tmp_path / "rows.jsonl", ({"prompt": row.prompt, "answer": row.answer} for row in sums(6))
    )
    asked = {"data": rows, "max_new_tokens": 2, "device": "cpu"}
    with pytest.raises(InputError, match="names this base") as caught:
        evaluate_adapters([adapter], **asked)
    assert str(pickled) in caught.value.hint
    with pytest.raises(InputError, match="names this base"):
        load_base(ModelSettings(name=str(pickled), type="causal_lm", from_adapter=True), device="cpu")
    assert evaluate_adapters([adapter], base_model=pickled, **asked).adapters[0].n == 6


def test_a_config_chooses_no_module_to_import(tmp_path, monkeypatch):
    package = tmp_path / "path" / "megatron" / "core"
    package.mkdir(parents=True)
    (package / "planted.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path / "path")
    adapter = llama_adapter(tmp_path / "adapter", 1)
    edit_config(adapter, megatron_config={"a": 1}, megatron_core="megatron.core.planted")
    engine = TransformersEngine(llama(), letters_tokenizer())
    engine.add("a", adapter)
    assert "megatron.core.planted" not in sys.modules


NEVER_ENDS = "([a-z_.0-9]+)+!"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("target_modules", NEVER_ENDS, "more than 1 s"),
        ("exclude_modules", "*", "nothing to repeat"),
        ("modules_to_save", ["("], "unterminated"),
        ("layers_to_transform", "x", "a list of layers"),
        ("trainable_token_indices", [10**6], "the base has 46 tokens"),
        ("lora_dropout", "x", "a number from 0 to 1"),
        ("eva_config", "x", "PEFT cannot read it"),
    ],
)
def test_a_field_that_peft_would_fail_on_is_named(tmp_path, monkeypatch, field, value, words):
    monkeypatch.setattr(adapter_config, "TRIAL_SECONDS", 1)
    adapter = edit_config(llama_adapter(tmp_path / "adapter", 1), **{field: value})
    with pytest.raises(InputError, match=words) as caught:
        TransformersEngine(llama(), letters_tokenizer()).add("a", adapter)
    assert f"{adapter}/adapter_config.json: " in str(caught.value)
    assert (field in str(caught.value)) == (field != "eva_config")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": -1}, "transformers cannot load this model"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is"),
        ({"vocab_size": 250_000_000}, "numbers, and the weights"),
        ({"_attn_implementation": "org/kernels"}, "code on the hub"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_describes_no_model_is_one_sentence(tmp_path, base, changes, words):
    folder = edit_config(shutil.copytree(base, tmp_path / "base"), **changes)
    with pytest.raises(InputError, match=words) as caught:
        load_base(ModelSettings(name=str(folder), type="causal_lm"), device="cpu")
    assert str(caught.value).startswith(f"{folder}/config.json: ")


def test_weights_of_other_shapes_than_the_config_says(tmp_path, base):
    folder = edit_config(shutil.copytree(base, tmp_path / "base"), intermediate_size=64)
    with pytest.raises(InputError, match=r"mlp\.down_proj\.weight has the shape \(32, 48\), .* \(32, 64\)"):
        load_base(ModelSettings(name=str(folder), type="causal_lm"), device="cpu")
