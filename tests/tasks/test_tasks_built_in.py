"""The tasks that come with Gradience, and what counts as correct."""

import math
import os
import re
import subprocess
import sys
import time

import pytest
from data_files import write_jsonl, write_repository
from gsm8k_cases import CASES, QUESTIONS
from hypothesis import given
from hypothesis import strategies as st
from raising import raises

from gradience import tasks
from gradience.errors import GradienceError, InputError, MissingExtra, NetworkError, UsageError
from gradience.statistics.paired import FEWEST_GROUPS
from gradience.tasks import arithmetic, glue, gsm8k
from gradience.tasks.base import LikelihoodTask
from gradience.tasks.examples import ROLES
from gradience.tasks.metrics import score
from gradience.tasks.scorers import SCORERS, matching, plain, scorer_of

TRAIN, TEST = QUESTIONS[:30], QUESTIONS[30:]


@pytest.fixture
def files(tmp_path):
    return {
        "train_file": write_jsonl(tmp_path / "train.jsonl", TRAIN),
        "test_file": write_jsonl(tmp_path / "test.jsonl", TEST),
    }


# --- what counts as an answer ---------------------------------------------------------------------


@pytest.mark.parametrize(("output", "strict", "flexible"), CASES.values(), ids=CASES)
def test_filters(output, strict, flexible):
    assert gsm8k.strict(output) == strict
    assert gsm8k.flexible(output) == flexible


# --- which rows play which role -------------------------------------------------------------------


def test_test_confirms_and_dev_comes_out_of_train(files):
    task = gsm8k.load(**files)
    assert {role: len(task.examples.of(role)) for role in ROLES} == {"train": 24, "dev": 6, "confirm": 6}
    assert {item.prompt for item in task.examples.of("confirm")} == {
        f"Question: {row['question']}\nAnswer:" for row in TEST
    }
    assert task.examples.counts == {"rows": 36, "duplicates": 0, "conflicts": 0, "unparsable": 0}
    assert next(iter(task.filters)) == "strict"
    assert task.stop == ("Question:", "</s>", "<|im_end|>")
    assert task.max_new_tokens == 320
    assert task.source["confirm"].startswith("test.jsonl sha256:")


@pytest.mark.parametrize(
    "answer", ["6 + 6 = 12", "####12", "#### twelve", "#### $12", "#### 5 apples", "#### "], ids=str
)
def test_a_row_that_its_own_answer_would_not_solve_is_left_out_and_counted(files, tmp_path, answer):
    rows = [*TRAIN, {"question": "How many?", "answer": answer}]
    task = gsm8k.load(**files | {"train_file": write_jsonl(tmp_path / "more.jsonl", rows)})
    assert task.examples.counts == {"rows": 37, "duplicates": 0, "conflicts": 0, "unparsable": 1}
    assert all("How many?" not in item.prompt for item in task.examples.all)


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return write_repository(tmp_path / "gsm8k", "main", {"train": TRAIN, "test": TEST})


def test_the_hub_gives_the_same_examples_as_the_files(files, repository):
    task = gsm8k.load(dataset=str(repository))
    assert task.examples == gsm8k.load(**files).examples
    assert task.source["train"] == f"{repository}/main train"


def test_a_hub_out_of_reach_is_a_matter_of_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(NetworkError, match="openai/gsm8k/main test") as caught:  # conftest.py: offline
        gsm8k.load()
    assert "local files" in caught.value.hint


# ---------------------------------------------------------------- Sums and differences


NEEDED = "needs the extra `demo`: make conformance installs it"
SUMS: dict[str, tuple[str, str | None, str | None]] = {
    # name: (output, leading, flexible)
    "trained": (" 16", "16", "16"),
    "negative": (" -82", "-82", "-82"),
    "goes-on": (" 16, I think", "16", "16"),
    "sentence": (" 16.", "16", "16"),
    "explains-first": (" 12 + 4 = 16", "12", "16"),
    "words-first": (" The answer is -16", None, "-16"),
    "difference-is-no-sign": ("16-3", "16", "3"),
    "spaced-difference-is-no-sign": ("16 - 3", "16", "3"),
    "decimals-are-another-number": ("16.5", None, None),
    "thousands-are-another-number": ("1,600", None, None),
    "list": ("16, 17", "16", "17"),
    "leading-zeros": (" 016", "016", "016"),
    "minus-alone": (" -", None, None),
    "empty": ("", None, None),
    "digits-of-another-script": ("٣", None, None),
}


@pytest.mark.parametrize(("output", "leading", "flexible"), SUMS.values(), ids=SUMS)
def test_filters_of_sums(output, leading, flexible):
    assert arithmetic.leading(output) == leading
    assert arithmetic.flexible(output) == flexible


@given(st.integers(), st.integers(), st.integers(0, 3))
def test_sums_are_the_same_when_they_are_equal(one, other, zeros):
    padded = str(one).replace("-", "").zfill(len(str(abs(one))) + zeros)
    assert arithmetic.same(("-" if one < 0 else "") + padded, str(one))
    assert arithmetic.same(str(one), str(other)) is (one == other)


def test_without_the_generator_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtra) as caught:
        arithmetic.load()
    assert caught.value.hint == 'in your clone of Gradience: pip install ".[demo]"'


@pytest.mark.parametrize("least", [{"min_terms": 4}, {"min_digits": 3}], ids=str)
def test_a_minimum_above_its_maximum(least):
    with raises(UsageError, "task-range", "is greater than"):
        arithmetic.load(**least)


# --- what is generated (reasoning-gym builds C code, so only `make conformance` is sure to have it) ----


@pytest.fixture(scope="module")
def task():
    pytest.importorskip("reasoning_gym", reason=NEEDED)
    return arithmetic.load()


def test_another_process_makes_the_same_questions(task):
    code = (
        "from gradience.tasks import arithmetic; task = arithmetic.load();"
        " print(*map(task.examples.fingerprint, ('train', 'dev', 'confirm')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [task.examples.fingerprint(role) for role in ROLES]


# ---------------------------------------------------------------- The built-in guard of general text


def test_both_guards_compare_likelihoods_of_real_examples():
    pytest.importorskip("reasoning_gym", reason="needs the extra `demo`")
    sums = tasks.load("arithmetic", {"scorer": "nll", "size": 200})
    assert isinstance(sums, LikelihoodTask)
    assert [example.id for example in sums.examples.all] == [
        example.id for example in arithmetic.load(size=200).examples.all
    ]
    assert tasks.scoring_of("arithmetic", {"scorer": "nll"}) == tasks.scoring_of("text", {})


def test_the_guard_is_prose_that_comes_with_python():
    task = tasks.load("text", {}, needed=("dev", "confirm"))
    texts = [example.response for example in task.examples.all]
    assert len(task.examples.of("confirm")) >= FEWEST_GROUPS  # enough for a grade
    assert min(map(len, texts)) >= 100
    assert all(example.prompt == "" and example.role in ("dev", "confirm") for example in task.examples.all)
    assert isinstance(task, LikelihoodTask)
    assert task.rolling
    assert len(tasks.load("text", {"min_characters": 300}, needed=()).examples.all) < len(texts)
    assert not [text for text in texts if ">>>" in text or "::=" in text or not text.endswith(".")]
    assert "Python" in task.source["text"]


# ---------------------------------------------------------------- Scorers


def correct(name: str, output: str, gold: str, pattern: str | None = None) -> bool:
    scorer = scorer_of(name, pattern)
    extracted = scorer.filters[name](output)
    return extracted is not None and scorer.same(extracted, gold)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Punctuation is taken out, not made a blank, and before the articles: as SQuAD's normalize_answer does.
        ("The Denver Broncos!", "denver broncos"),
        ("  an   apple, a day ", "apple day"),
        ("Saint-Denis", "saintdenis"),
        ("the-cat", "thecat"),
        ("Theatre", "theatre"),
        ("A. B. C.", "b c"),
        ("$1,080.50", "108050"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation is known
        ("the", ""),
    ],
)
def test_the_normal_form_of_squad(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("name", "output", "gold", "expected"),
    [
        ("exact", " Paris\n", "Paris", True),
        ("exact", "paris", "Paris", False),
        ("exact", "Paris.", "Paris", False),
        ("exact", "", "Paris", False),
        ("normalized", "the PARIS.", "Paris", True),
        ("normalized", "Paris, France", "Paris", False),
        ("contains", "It is paris, France", "Paris", True),
        ("contains", "Par is", "Paris", False),
        ("contains", "", "Paris", False),
        ("number", "so 1,080 in all.", "1080", True),
        ("number", "12 or 13", "12", False),
    ],
)
def test_worked_examples(name, output, gold, expected):
    assert correct(name, output, gold) is expected


@given(st.text("1,.$#- \nx", max_size=30), st.text("1,.$#- \nx", max_size=30))
def test_numbers_are_compared_as_the_patterns_of_lm_eval_compare_them(extracted, gold):
    def plain(text):
        for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"):
            text = re.sub(pattern, "", text)
        return text.lower()

    assert SCORERS["number"].same(extracted, gold) is (plain(extracted) == plain(gold))


@pytest.mark.parametrize("text", ["1,", "1", ".", "-", "$", "#", "#### ", "-1 "])
@pytest.mark.parametrize("name", ["exact", "normalized", "contains", "number"])
def test_a_scorer_takes_linear_time(name, text):
    started = time.process_time()
    correct(name, text * 100_000 + "2", "1")
    SCORERS[name].same(text * 100_000, text * 99_999)
    assert time.process_time() - started < 2


def test_one_group_extracts_and_without_one_the_whole_match():
    assert matching(r"#### (\S+)")("x #### 12 #### 13") == "12"
    assert matching(r"#### \S+")("x #### 12") == "#### 12"
    assert matching(r"#### (\S*)")("####  ") is None
    assert matching(r"(?s).*(?:is|=) (\d+)")("it is 3\nor = 4") == "4"
    assert correct("regex", "answer: B", "B", pattern=r"answer: ([A-D])")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "not a regular expression"),
        ("(a)(b)", "2 groups"),
        ("(a{1000}){1000}", "more than 1000 repeats"),
        ("a" * 600, "longer than 512 characters"),
    ],
)
def test_a_pattern_that_is_none(pattern, why):
    with raises(UsageError, "task-pattern", why):
        matching(pattern)


def test_a_pattern_that_takes_for_ever_ends_and_decides_nothing(monkeypatch):
    monkeypatch.setattr("gradience.tasks.scorers.PATTERN_SECONDS", 0.05)
    with pytest.raises(InputError, match=r"takes more than 0\.05 s on an output of 61 characters"):
        matching(r"^(?:a|aa)+b")("a" * 61)


@pytest.mark.parametrize(("name", "pattern"), [("regex", None), ("exact", "a")])
def test_a_pattern_belongs_to_regex(name, pattern):
    with raises(GradienceError, "task-scorer"):
        scorer_of(name, pattern)


# ---------------------------------------------------------------- GLUE


GLUE = {
    # Columns and labels as on the card of nyu-mll/glue.
    "cola": (["sentence"], ["unacceptable", "acceptable"]),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "rte": (["sentence1", "sentence2"], ["entailment", "not_entailment"]),
    "sst2": (["sentence"], ["negative", "positive"]),
}
METRICS = {"cola": "matthews", "mrpc": "f1", "qqp": "f1"}


def rows(subset: str, start: int, count: int, *, named: bool = False) -> list[dict[str, object]]:
    columns, names = GLUE[subset]
    return [
        {column: f"The {column} of row {n}." for column in columns}
        | {"label": names[n % len(names)] if named else n % len(names)}
        for n in range(start, start + count)
    ]


@pytest.fixture
def hub_copy(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(subset):
        columns, names = GLUE[subset]
        validations = ["validation_matched", "validation_mismatched"] if subset == "mnli" else ["validation"]
        splits = {name: rows(subset, 100 * place, 12) for place, name in enumerate(validations, start=1)}
        texts = "".join(f"  - name: {column}\n    dtype: string\n" for column in columns)
        labels = "".join(f"          '{place}': {name}\n" for place, name in enumerate(names))
        features = f"{texts}  - name: label\n    dtype:\n      class_label:\n        names:\n{labels}"
        return write_repository(tmp_path / "glue", subset, {"train": rows(subset, 0, 50), **splits}, features)

    return make


@pytest.mark.parametrize("subset", GLUE)
def test_the_hub_and_files_give_the_same_examples(subset, hub_copy, tmp_path):
    from_hub = glue.load(subset=subset, dataset=str(hub_copy(subset)))
    for named in (False, True):
        train = write_jsonl(tmp_path / "train.jsonl", rows(subset, 0, 50, named=named))
        validation = write_jsonl(tmp_path / "validation.jsonl", rows(subset, 100, 12, named=named))
        from_files = glue.load(subset=subset, train_file=train, validation_file=validation)
        assert from_files.examples == from_hub.examples
    columns, names = GLUE[subset]
    assert list(from_hub.label_names) == names
    assert from_hub.metric == METRICS.get(subset, "accuracy")
    assert [len(from_hub.examples.of(role)) for role in ("train", "dev", "confirm")] == [40, 10, 12]
    example = from_hub.examples.of("confirm")[0]
    texts = [example.text] if example.text_pair is None else [example.text, example.text_pair]
    assert [text.split()[1] for text in texts] == columns


@pytest.mark.parametrize(("subset", "hint"), [("stsb", "set `subset`"), ("sst-2", "did you mean `sst2`")])
def test_what_is_no_task_here_is_refused(subset, hint):
    with raises(UsageError, "glue-subset") as caught:
        glue.load(subset=subset)
    assert hint in caught.value.hint


def test_options_that_do_not_fit(tmp_path):
    with pytest.raises(UsageError, match="only one of"):
        glue.load(subset="rte", train_file=tmp_path / "train.tsv")


# --- metrics --------------------------------------------------------------------------------------

LABELED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


@given(LABELED)
def test_metrics_are_what_the_four_counts_give(pairs):
    labels, predictions = zip(*pairs, strict=True)
    count = {key: float(pairs.count(key)) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}
    tn, fp, fn, tp = count[0, 0], count[0, 1], count[1, 0], count[1, 1]
    assert score("accuracy", labels, predictions) == pytest.approx((tp + tn) / len(pairs))
    assert score("f1", labels, predictions) == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0.0)
    spread = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    expected = (tp * tn - fp * fn) / spread if spread else 0.0
    assert score("matthews", labels, predictions) == pytest.approx(expected)
