"""lm-eval runs anew, and what it writes is read: its task, its samples, its means.

The model answers from a table: what is tested is what lm-eval writes. Logs of a real model are in tests/evidence/logs.
"""

from __future__ import annotations

import json

import pytest

from gradience import compare_logs

pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore")]

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

    rows = tmp_path / "rows.jsonl"
    questions = [f"question {number}" for number in range(60)]
    rows.write_text("".join(json.dumps({"question": q, "answer": q.upper()}) + "\n" for q in questions))
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
