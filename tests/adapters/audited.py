"""Runs `gradience audit --json` in this process and returns what a script would see."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from gradience.cli.app import run


class Outcome(NamedTuple):
    """Exit code, the JSON on stdout, and stderr."""

    code: int
    report: dict[str, Any]
    err: str

    def finding(self, code: str) -> dict[str, Any]:
        """The one finding with this code."""
        (matching,) = (finding for finding in self.report["findings"] if finding["code"] == code)
        return matching

    @property
    def codes(self) -> set[str]:
        return {finding["code"] for finding in self.report["findings"]}

    @property
    def statuses(self) -> list[str]:
        return [layer["status"] for layer in self.report["layers"]]

    @property
    def unaudited(self) -> dict[str, str]:
        """Tensor -> why it was not audited."""
        return {note["tensor"]: note["reason"] for note in self.report["coverage"]["unaudited"]}

    @property
    def other(self) -> dict[str, str]:
        """Tensor -> what it is instead of a factor."""
        return {note["tensor"]: note["reason"] for note in self.report["coverage"]["other"]}


def audit(capsys: Any, path: Path, *options: str) -> Outcome:
    code = run(["audit", str(path), "--json", *options])
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert_adds_up(report)
    return Outcome(code, report, err)


def assert_adds_up(report: dict[str, Any]) -> None:
    """Every tensor and every parameter of the file is in exactly one place of the report."""
    coverage = report["coverage"]
    groups = ("audited_params", "other_params", "unaudited_params")
    assert sum(coverage[group] for group in groups) == coverage["params"]
    assert coverage["audited_params"] == report["total_lora_params"]
    assert coverage["other_params"] == sum(note["params"] for note in coverage["other"])
    assert coverage["unaudited_params"] == sum(note["params"] for note in coverage["unaudited"])
    named = [note["tensor"] for group in ("other", "unaudited") for note in coverage[group]]
    assert len(named) == len(set(named))
    modules = {layer["name"] for layer in report["layers"]}
    assert len(named) + 2 * len(modules) == coverage["tensors"]


def good(outcome: Outcome, layers: int = 4) -> Outcome:
    """`outcome`, which must be that of an adapter measured in full."""
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.statuses == ["ok"] * layers
    assert outcome.report["adapter"]["format"] == "peft"
    return outcome
