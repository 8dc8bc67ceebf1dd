"""A page of private data quotes no example and no answer: of no report, from no verb."""

import json
from pathlib import Path

import pytest
from hostile.samples import artifacts
from test_report import EVERY

from gradience.reports.base.report import Report
from gradience.reports.page.render import to_page
from gradience.reports.verification import RegeneratedAnswers, VerificationMismatch
from gradience.sources import PageSource

LOGS = Path(__file__).parents[1] / "evidence" / "logs" / "lm_eval"
SECRET = "forty-two, said the patient"
QUOTED = {
    "recorded",
    "again",
    "prompt",
    "response",
    "scored",
    "extracted",
    "excerpt",
    "answer_a",
    "answer_b",
    "answer",
    "output",
}
"""Fields of artifacts that hold what was asked or answered."""
REPORTS = {name: report for name, report in artifacts().items() if isinstance(report, Report)}
FILE = "seed_42/probe/eval/answers.records.jsonl"
AGAIN = RegeneratedAnswers(file=FILE, examples=2, equal=1, differing=1, undecidable="another machine")
REPORTS["verification"] = REPORTS["verification"].model_copy(
    update={
        "regenerated": (AGAIN,),
        "mismatches": (
            VerificationMismatch(file=FILE, what=f"a: {SECRET!r} recorded, 'y' when it is answered again"),
        ),
    }
)
HOLD_TEXTS = {"verification", "evidence"}
"""Reports that quote in their own file; those of an evaluation, a search and Bench show records beside them."""


def with_secrets(value):
    if isinstance(value, dict):
        return {
            key: SECRET if key in QUOTED and isinstance(each, str) else with_secrets(each)
            for key, each in value.items()
        }
    return [with_secrets(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", REPORTS)
def test_no_page_quotes_where_texts_are_left_out(name):
    report = REPORTS[name]
    changed = json.dumps(with_secrets(json.loads(report.to_json())))
    secret = type(report).model_validate_json(changed)
    assert (SECRET in to_page([PageSource("", secret)])) is (name in HOLD_TEXTS)
    assert SECRET not in to_page([PageSource("", secret)], texts=False)


def test_every_verb_whose_page_may_quote_can_leave_it_out():
    verbs = {" ".join(words) for words, command in EVERY if takes(command, "--no-texts")}
    assert verbs == {
        "bench aggregate",
        "bench run",
        "evaluate",
        "evidence",
        "report",
        "shrink",
        "verify",
    }


def takes(command, option):
    return any(option in parameter.opts for parameter in command.params)


def test_leaving_texts_out_of_no_page_is_refused(command, tmp_path):
    """Records and report.md would hold them all the same: nobody shall believe that they do not."""
    (tmp_path / "a.csv").write_text("id,score\n1,1\n")
    file = str(tmp_path / "a.csv")
    assert "no effect without --html" in command("evidence", file, file, "--no-texts", code=2).err
