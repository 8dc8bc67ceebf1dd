"""`gradience evaluate`: its screen, its files, its exit codes, its plan."""

import hashlib
import itertools
import json
from fractions import Fraction
from pathlib import Path

import adapters_to_compare as data
import numpy as np
import pytest
from raising import raises

from gradience import evaluate_adapters, verify
from gradience.cli.app import run
from gradience.cli.exit_codes import code_of_grades
from gradience.errors import GradienceError, UsageError
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.evaluate.evaluator import Evaluator
from gradience.evaluate.settings import EvaluateSettings, options_of, sets_of
from gradience.evaluate.verb import joint_rows
from gradience.files.digests import Digests
from gradience.reports.base.graded import Bounds
from gradience.reports.evaluation import (
    CANDIDATE,
    EvaluatedAdapter,
    EvaluationForecast,
    EvaluationReport,
    EvaluationSetsReport,
)
from gradience.words import points


@pytest.fixture
def arguments(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    return ["evaluate", "reference", "other", "-b", "base", "--data", "rows.csv", "--device", "cpu"]


@pytest.mark.parametrize(
    ("verb", "there", "content"),
    [
        ("evaluate", "shrink.json", "shrink.json of gradience shrink"),
        ("evaluate", "plan.json", "plan.json of another run"),  # of an interrupted run
        ("evaluate", "bench.json", "bench.json of gradience bench run"),
        ("shrink", "evaluation.json", "evaluation.json of gradience evaluate"),
    ],
)
def test_the_run_of_another_command_is_not_overwritten(
    arguments, tmp_path, command, monkeypatch, verb, there, content
):
    monkeypatch.setattr(Evaluator, "engine", property(lambda self: pytest.fail("a model is loaded")))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / there).write_text("{}", encoding="utf-8")
    adapters = {"evaluate": ["reference", "other"], "shrink": ["reference"]}[verb]
    printed = command(verb, *adapters, *arguments[3:], "-o", tmp_path / "out", code=2).err
    assert f"out: contains {content}, whose records would be overwritten" in " ".join(printed.split())
    assert f"--output {tmp_path}/out-{verb}" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == [there]


def test_a_run_says_what_it_can_show_prints_rows_and_writes_them(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    code = run([*arguments, "-o", str(out), "--with-base", "--margin", "90"])
    printed = capsys.readouterr()
    report = EvaluationReport.read(out / "evaluation.json")
    assert (code, report.candidates[0].grade) == (0, "B")
    assert printed.err.startswith(f"note: {data.LABELS}\n60 examples can rule out a drop of 90 points ")
    for words in ("stage 3 of 3: evaluating base", f"written: {out}/evaluation.json, {out}/evaluation.md\n"):
        assert words in printed.err
    assert printed.out == report.to_text()
    for words in (
        "Candidates, compared with reference",
        "reference compared with LoRA off, same head: accuracy",
        "other: B, shown",
    ):
        assert words in printed.out
    assert f"{report.adapters[0].correct} (" in (out / "evaluation.md").read_text(encoding="utf-8")
    assert run([*arguments, "-o", str(out), "--margin", "0.5", "--json", "--quiet"]) in (1, 8)
    again = EvaluationReport.model_validate(json.loads(capsys.readouterr().out))
    assert again.candidates[0].pairs == report.candidates[0].pairs
    listed = Digests.read(out / "digests.json").files
    records = {file.path for row in again.adapters for file in row.records}
    assert listed.keys() == {"evaluation.json", "evaluation.md", "records/manifest.json"} | records
    assert listed == {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in listed}
    page = out / "evaluation.md"
    page.write_text(page.read_text(encoding="utf-8").replace("other", "mine"), encoding="utf-8")
    assert run([*arguments, "-o", str(out), "--margin", "90"]) == 0
    assert (
        Digests.read(out / "digests.json").files["evaluation.md"]
        == hashlib.sha256(page.read_bytes()).hexdigest()
    )


def test_the_page_of_a_run_quotes_the_prompts_it_has_just_read(prepared, monkeypatch, tmp_path, capsys):
    """Also if the data are neither in the working directory nor beside the output."""
    monkeypatch.chdir(tmp_path)
    paths = {name: str(prepared / name) for name in ("reference", "other", "base", "rows.csv")}
    command = [
        "evaluate",
        paths["reference"],
        paths["other"],
        "-b",
        paths["base"],
        "--data",
        paths["rows.csv"],
    ]
    assert run([*command, "--device", "cpu", "-o", "deep/out", "--html", "page.html"]) in (0, 1, 8)
    assert "written: deep/out/evaluation.json, deep/out/evaluation.md, page.html\n" in capsys.readouterr().err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "prompts not shown" not in page
    for words in ("correct answers, ", ">prompt</th>", "<bdi>bad</bdi>"):
        assert words in page


def test_a_candidate_that_cannot_be_evaluated_gives_4(arguments, prepared, tmp_path, command):
    data.adapter(prepared / "inert", prepared / "base", 3, init_lora_weights=True)
    printed = command(*arguments, "inert", "-o", tmp_path, "--margin", "90", code=4)
    assert "inert: X, could not be evaluated: inert: has no effect" in " ".join(printed.out.split())


def test_python_gets_the_same_plan_preview_and_page(prepared, monkeypatch, command, tmp_path):
    monkeypatch.chdir(prepared)
    adapters = ["reference", "other"]
    how = {"base_model": "base", "data": "rows.csv", "device": "cpu", "margin": 90}
    words = ["evaluate", *adapters, "-b", "base", "--data", "rows.csv", "--device", "cpu", "--margin", "90"]
    for name in ("dry_run", "preview"):
        shown = json.loads(evaluate_adapters(adapters, **how, **{name: True}).to_json())
        printed = json.loads(command(*words, f"--{name.replace('_', '-')}", "--json").out)
        # the memory of this process has grown since
        assert printed | {"process_bytes": 0} == shown | {"process_bytes": 0}
    report = evaluate_adapters(adapters, **how, output=tmp_path)
    assert (tmp_path / "evaluation.md").read_text(encoding="utf-8") == report.to_markdown()


@pytest.mark.parametrize(("grades", "code"), [("", 0), ("B", 0), ("BC", 8), ("CD", 1), ("BDCX", 4)])
def test_the_worst_grade_is_the_exit_code(grades, code):
    kept = EvaluationReport.read(data.KEPT)
    rows = [kept.candidates[0].model_copy(update={"grade": grade}) for grade in grades]
    report = kept.model_copy(update={"adapters": (kept.adapters[0], *rows)})
    assert code_of_grades(row.grade for row in report.candidates) == code


def test_a_plan_loads_nothing_and_names_margins_and_memory(arguments, capsys, command, monkeypatch):
    monkeypatch.setattr("gradience.models.load.load_base", lambda *_, **__: pytest.fail("a model is loaded"))
    plan = EvaluationForecast.model_validate(json.loads(command(*arguments, "--dry-run", "--json").out))
    assert (plan.examples, plan.adapters) == (60, ("reference", "other"))
    assert plan.weights_bytes > 0 < plan.batch_bytes
    assert 100e6 < plan.process_bytes < 4e9  # PyTorch and transformers
    assert run([*arguments, "--dry-run"]) == 0
    assert "60 examples are too few to rule out a drop of 2.5 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ([], 2, "no --output given"),
        (["--dry-run", "--margin", "much"], 2, "margin"),
        (["--dry-run", "--option", "text_column"], 2, "not KEY=VALUE"),
        (["--dry-run", "--columns", "text=words,label=label"], 3, "words"),
        (["nowhere", "--dry-run"], 3, "nowhere"),
    ],
)
def test_a_wrong_command_says_what_to_do(arguments, more, code, words, command):
    printed = command(*arguments, *more, code=code)
    assert words in printed.err
    assert "hint: " in printed.err


def test_options_are_read_as_yaml_reads_them():
    expected = {"a": 1, "b": ["x", "y"], "c": "d=e", "f": True}
    assert options_of(["a=1", "b=[x, y]", "c=d=e", "f=true"]) == expected
    with pytest.raises(UsageError):
        options_of(["=1"])


# ---------------------------------------------------------------- Several data sets in one run


WORDS = ("good", "bad", "film", "plot", "a", "is")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A plain text of 60 paragraphs, no two of them the same."""
    path = tmp_path_factory.mktemp("texts") / "notes.txt"
    paragraphs = itertools.islice(itertools.product(WORDS, repeat=4), 60)
    path.write_text("\n\n".join(" ".join(words) for words in paragraphs))
    return path


ROWS = [{"prompt": f"{first} {second} is", "answer": first} for first in WORDS for second in WORDS[:4]]


def evaluate(causal, texts, output, **more):
    given = {"base_model": causal / "base", "data": ROWS, "guards": {"general": f"text:{texts}"}}
    given |= {"device": "cpu", "max_new_tokens": 2, "no_ledger": True}
    return evaluate_adapters([causal / "reference", causal / "other"], output=output, **{**given, **more})


@pytest.fixture(scope="module")
def finished(causal, texts, tmp_path_factory):
    output = tmp_path_factory.mktemp("sets") / "out"
    with data.tiny_bench.counted_loads() as loads:
        report = evaluate(causal, texts, output)
    return output, report, loads


def test_two_sets_share_one_base_and_each_is_an_ordinary_evaluation(causal, texts, finished, tmp_path):
    output, report, loads = finished
    assert len(loads) == 1
    assert [(each.name, each.guard, each.compares, str(float(each.margin))) for each in report.plan.sets] == [
        ("task", False, "correct", "0.025"),
        ("general", True, "nll", "0.05"),
    ]
    alone = evaluate(causal, texts, tmp_path / "alone", data=texts, guards={}, with_base=True, margin="0.05")
    joint = EvaluationReport.read(output / "general" / "evaluation.json")
    for ours, theirs in zip(joint.adapters, alone.adapters, strict=True):
        assert ours.model_dump(exclude={"records"}) == theirs.model_dump(exclude={"records"})
    assert [row.role for row in report.adapters] == ["reference", "candidate", "base"]
    assert verify(output).verdict == "consistent"
    assert EvaluationSetsReport.read(output / "evaluation_sets.json") == report
    screen, bound = report.to_text(width=160), report.rows_on("task")["other"].bounds.low
    assert f" {points(bound)} " in screen  # the bound that decides the grade, not the two-sided interval
    assert "95 % bound one-sided bound; compared with the margin" in " ".join(screen.split())


def test_the_examples_of_a_built_in_guard_are_those_of_its_task(causal, texts, tmp_path):
    pytest.importorskip("reasoning_gym", reason="needs the extra `demo`")
    evaluate(causal, texts, tmp_path / "out", guards={"sums": "arithmetic"}, limit=6)
    verified = verify(tmp_path / "out", data=True)
    assert (verified.verdict, verified.mismatches) == ("consistent", ())


def test_from_records_nothing_is_loaded(causal, texts, finished, monkeypatch):
    output, report, _ = finished
    monkeypatch.setattr(TransformersEngine, "load", lambda *_, **__: pytest.fail("a model is loaded"))
    again = evaluate(causal, texts, output)
    assert (again.adapters, again.plan_sha256) == (report.adapters, report.plan_sha256)


def test_a_guard_that_is_left_out_after_the_answers_costs_the_grade(causal, texts, tmp_path):
    wide = {"guards": {"general": ROWS[::-1]}, "margin": {"task": 99, "general": 99}}
    assert evaluate(causal, texts, tmp_path / "out", **wide).candidates[0].grade == "B"
    with raises(UsageError, "output-other-run"):
        evaluate(causal, texts, tmp_path / "out", guards={}, margin=99)
    (row,) = evaluate(causal, texts, tmp_path / "out", data={"task": ROWS}, guards={}, margin=99).candidates
    assert (row.grade, row.grades) == ("C", {"task": "B"})
    assert "exploratory" in row.reason
    assert verify(tmp_path / "out").verdict == "consistent"


def test_an_edited_plan_and_an_edited_joint_grade_are_mismatches(causal, texts, tmp_path):
    evaluate(causal, texts, tmp_path / "out")
    for name, old, new in (
        ("plan.json", '"margin": "0.05"', '"margin": "0.06"'),
        ("evaluation_sets.json", '"task": "C"', '"task": "B"'),
    ):
        path = tmp_path / "out" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        assert {mismatch.file for mismatch in verify(tmp_path / "out").mismatches} >= {name}
        path.write_text(text)


def test_preview_and_dry_run_show_every_set(causal, texts):
    preview = evaluate(causal, texts, None, preview=True)
    assert len(preview.scored) == 3
    assert {name: len(shown.scored) for name, shown in preview.others.items()} == {"general": 3}
    assert "general" in preview.to_text()
    plan = evaluate(causal, texts, None, dry_run=True)
    assert (
        f"guard, {plan.others['general'].examples} examples of jsonl, margin 0.05 nats per token"
        in plan.to_text()
    )


# ---------------------------------------------------------------- the joint grade


def reports_of(p_values):
    """Evaluations by set; p_values: one row for each set, one column for each candidate."""
    from gradience.statistics.paired import adjusted_p_values

    sets = {}
    for place, row in enumerate(p_values):
        adjusted = [values[0] for values in adjusted_p_values([[p] for p in row])]
        adapters = tuple(
            EvaluatedAdapter.model_construct(
                name=f"c{number}",
                role=CANDIDATE,
                grade="B" if adjusted[number] <= 0.05 else "C",
                reason="",
                bounds=Bounds(low=0, high=0, p_value=p),
            )
            for number, p in enumerate(row)
        )
        sets[f"s{place}"] = EvaluationReport.model_construct(adapters=adapters)
    return sets


def test_the_joint_grade_is_holm_of_the_largest_p_values():
    """Oracle: Holm as in his paper, of the largest p-value of each candidate. It never grants more than a set does."""
    random = np.random.default_rng(0)
    for _ in range(200):
        p = random.uniform(0, 0.12, size=(3, 4))
        largest = np.sort(p.max(axis=0))
        rejected = itertools.takewhile(lambda pair: pair[1] <= 0.05 / (4 - pair[0]), enumerate(largest))
        rows = joint_rows(reports_of(p.tolist()))
        graded = [row for row in rows if row.grade == "B"]
        assert len(graded) == len([*rejected])
        assert all(set(row.grades.values()) == {"B"} for row in graded)


def test_two_candidates_that_fail_on_different_sets_are_adjusted_together():
    """Each set alone would show both at the full level: c0 is hard on s0 only, c1 on s1 only."""
    rows = joint_rows(reports_of([[0.04, 1e-6], [1e-6, 0.04]]))
    assert [row.grades for row in rows] == [{"s0": "B", "s1": "B"}] * 2
    assert [(row.grade, row.adjusted_p) for row in rows] == [("C", 0.08)] * 2


# ---------------------------------------------------------------- names and settings


def settings_of(**given):
    return EvaluateSettings(("a",), **given)


def test_each_set_has_its_name_source_scorer_and_margin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.jsonl", "notes.txt", "general.jsonl"):
        Path(name).write_text("")
    settings = settings_of(
        data=["mine.jsonl"],
        guards=["lm_eval:arc_easy", "text:notes.txt", "other=general.jsonl"],
        margin=["3", "notes=2%", "arc_easy=4"],
        options={"scorer": "number", "other.scorer": "contains"},
        columns={"prompt": "Q", "other.prompt": "question"},
        group="other=doc",
    )
    read = [(each.set_name, each.data, each.task, each.options, each.margin) for each in sets_of(settings)]
    assert read == [
        ("task", Path("mine.jsonl"), None, {"scorer": "number"}, Fraction(3)),
        ("arc_easy", None, "lm_eval:arc_easy", {}, Fraction(4)),
        ("notes", Path("notes.txt"), None, {"scorer": "nll"}, "2%"),
        ("other", Path("general.jsonl"), None, {"scorer": "contains"}, None),
    ]
    more = [(each.columns, each.group) for each in sets_of(settings)]
    assert more == [({"prompt": "Q"}, None), ({}, None), ({}, None), ({"prompt": "question"}, "doc")]
    assert settings_of(data=["task=mine.jsonl"]).data == Path("mine.jsonl")  # a single set stays one


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"guards": ["task=rows.jsonl"]}, "bad-set", "two data sets are called `task`"),
        ({"guards": ["rows.jsonl", "a/rows.jsonl"]}, "bad-set", "two data sets are called `rows`"),
        ({"guards": ["records=rows.jsonl"]}, "bad-set", "cannot name a data set"),
        ({"guards": ["none.jsonl"]}, "task-file", "none.jsonl: no such file"),
        ({"guards": ["g=rows.jsonl"], "margin": ["h=1"]}, "bad-set", "no data set is called `h`"),
        ({"data": ["a=rows.jsonl", "b=rows.jsonl"], "task": "reviews"}, "data-and-task", "several data sets"),
    ],
)
def test_a_wrong_data_set_is_refused_before_anything_is_imported(tmp_path, monkeypatch, given, code, words):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(json.dumps({"text": "a", "label": "b"}) + "\n")
    monkeypatch.setattr("gradience.evaluate.verb.require_libraries", lambda *_: pytest.fail("libraries"))
    with raises(GradienceError, code, words):
        evaluate_adapters(["a"], **{"data": "rows.jsonl", **given})


def test_a_perplexity_is_no_margin_of_accuracy(causal, texts):
    with raises(GradienceError, "bad-margin", "a rise in perplexity"):
        evaluate(causal, texts, None, margin="2%", dry_run=True)
    forecast = evaluate(causal, texts, None, margin={"general": "2%"}, dry_run=True)
    assert float(forecast.others["general"].margin) == pytest.approx(np.log(1.02), abs=1e-6)
