"""What is added to check and monitor: a toy of each, seen wherever its kind is seen."""

from __future__ import annotations

import json


def test_a_toy_rule_of_check_is_one_function_and_one_line(tmp_path, add, command, artifact):
    from gradience.check.rules import Context, Problem, Problems
    from gradience.rules import need, rule

    @rule("odd-rank", "error", "arithmetic")
    def odd_rank(context: Context) -> Problems:
        """A rank that cannot be halved."""
        r = need(context.settings.r)
        if r % 2:
            yield Problem("r", str(r), str(r + 1), f"rank {r} is odd", "half of it is not a rank")

    add("rule of check", odd_rank)
    config = tmp_path / "adapter_config.json"
    seen = {}
    for r in (None, 8, 7):
        config.write_text(json.dumps({"peft_type": "LORA", "target_modules": "all-linear", "r": r}))
        seen[r] = artifact("check", config, code=1 if r == 7 else 0)
    assert seen[7]["findings"][0]["code"] == "odd-rank"  # errors come first
    assert seen[8]["passed"][-1] == seen[None]["not_applicable"][-1] == "odd-rank"
    shown = command("check", config, "--verbose", code=1).out
    assert "rank 7 is odd" in shown
    assert "half of it is not a rank" in shown
    assert "arithmetic" in shown


def test_a_toy_dialect_of_check_is_one_object_and_one_line(tmp_path, add, command, artifact):
    from gradience.check.dialects import Dialect, switched

    keys = {"size": "r", "strength": "alpha", "speed": "learning_rate"}
    toy = Dialect(
        "toy",
        lambda values: "toy" in values,
        keys,
        lora=switched("toy", lambda kind: kind == "lora"),
        switch="toy: lora",
        defaults={"r": 4},
        hold_out="test: true",
    )
    add("dialect of check", toy, first=True)
    config = tmp_path / "config.yaml"
    config.write_text("toy: lora\nstrength: 8\nspeed: fast\n")
    report = artifact("check", config, code=1)
    assert report["files"][0]["dialect"] == "toy"
    assert (report["settings"]["r"], report["settings"]["scale"]) == (4, 2)
    findings = {finding["code"]: finding for finding in report["findings"]}
    assert findings["unreadable-value"]["where"] == "config.yaml: speed"
    config.write_text("toy: full\nspeed: 2e-4\n")
    shown = command("check", config).out
    assert "toy: lora, if you want LoRA" in shown
    assert "test: true" in shown


def test_a_toy_rule_of_monitor_is_one_function_and_one_line(tmp_path, add, command, artifact):
    from gradience.monitor.rules import MonitoredRun, Observation, Observations, evidence, need_method
    from gradience.rules import rule
    from gradience.telemetry import TelemetryWriter

    @rule("long-run", "error", "patience")
    def long_run(run: MonitoredRun) -> Observations:
        """More than two steps."""
        need_method(run, "supervised")
        if (run.facts.last_step or 0) > 2:
            step = run.facts.last_step
            yield Observation(f"{step} steps are many", evidence("steps", step), "high", "stop", "it is late")

    add("rule of monitor", long_run)
    for trainer, steps, code in (("Trainer", 1, 0), ("GRPOTrainer", 3, 0), ("Trainer", 3, 1)):
        path = tmp_path / f"{trainer}{steps}.jsonl"
        with TelemetryWriter(path) as log:
            log.start({"trainer": {"class": trainer}})
            for step in range(1, steps + 1):
                log.train_step(step, loss=1.0)
        shown = command("monitor", path, "--fail-on", "error", code=code).out
    assert "3 steps are many" in shown
    assert "stop" in shown
    (report,) = artifact("monitor", path)["runs"]
    assert (report["alerts"][-1]["code"], report["alerts"][-1]["source"]) == ("long-run", "patience")
    assert report["alerts"][-1]["action"] == "stop"
