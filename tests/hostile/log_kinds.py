"""Kinds of file that `gradience evidence` reads: logs of evaluations, of which B is damaged and A is good."""

from __future__ import annotations

from hostile import samples
from hostile.kinds import TESTS, Kind, commands, folder_files

LOGS = TESTS / "evidence" / "logs"
LM_EVAL = LOGS / "lm_eval"


def logs() -> dict[str, Kind]:
    """Every kind, by name."""
    both = {
        f"in/{side}/{path.name}": path.read_bytes()
        for side in "ab"
        for path in (LM_EVAL / side).iterdir()
        if "_orders_" not in path.name
    }
    (samples_of_b,) = (place for place in both if place.startswith("in/b/samples"))
    (results_of_b,) = (place for place in both if place.startswith("in/b/results"))
    lm_eval = commands(
        "evidence in/a in/b --filter strict-match",
        "evidence in/a in/b --filter strict-match --json --flips 30",
    )
    scores = {"in/a.csv": samples.csv_scores(), "in/b.csv": samples.csv_scores()}
    lines = {"in/a.jsonl": samples.jsonl_scores(), "in/b.jsonl": samples.jsonl_scores()}
    inspect = {f"in/{side}.eval": (LOGS / "inspect" / f"{side}_deflated.eval").read_bytes() for side in "ab"}
    records = folder_files(LOGS / "every_eval_ever" / "a", "in/a") | folder_files(
        LOGS / "every_eval_ever" / "b", "in/b"
    )
    a, b = (
        next(place for place in records if place.startswith(f"in/{side}/") and place.endswith(".json"))
        for side in "ab"
    )
    return {
        "log of Inspect": Kind(
            "in/b.eval", "archive", inspect, commands("evidence in/a.eval in/b.eval --json")
        ),
        "record of Every Eval Ever": Kind(b, "json", records, commands(f"evidence {a} {b}")),
        "samples of Every Eval Ever": Kind(
            b.replace(".json", "_samples.jsonl"),
            "lines",
            records,
            commands(f"evidence {a} {b.replace('.json', '_samples.jsonl')} --json"),
        ),
        "samples of lm-eval": Kind(samples_of_b, "lines", both, lm_eval),
        "results of lm-eval": Kind(results_of_b, "json", both, lm_eval, optional=True),
        "scores in CSV": Kind(
            "in/b.csv",
            "rows",
            scores,
            commands("evidence in/a.csv in/b.csv", "evidence in/b.csv in/a.csv --json"),
        ),
        "scores in JSON lines": Kind(
            "in/b.jsonl", "lines", lines, commands("evidence in/a.jsonl in/b.jsonl --margin 0.1 --json")
        ),
    }
