"""Verbs on files of a training run or an evaluation: check, monitor, evidence, verify."""

from pathlib import Path
from typing import Annotated, Literal

import gradience
from gradience.bench.settings import VerifySettings, existing_folder
from gradience.check import CheckSettings
from gradience.cli.exit_codes import ExitCode
from gradience.cli.shared import TextsOutput, VerboseOutput, command_line
from gradience.evidence.settings import EvidenceSettings
from gradience.monitor import MonitorSettings
from gradience.settings import Flag, call, settings_model


def check(settings: CheckSettings, out: VerboseOutput) -> int:
    """Reports what is wrong, unusual or not supported. One file may contain both the adapter's and the training's
    settings. A pickled training_args.bin is never opened. Exit code 1: an error was found.

    Examples:

      gradience check ./my_adapter

      gradience check trl.yaml --task generation --lr 1e-4

      gradience check ./my_adapter --training-dir ./run --json
    """
    report = call(gradience.check_config, settings)
    out.show(report)
    errors = any(finding.severity == "error" for finding in report.findings)
    return ExitCode.GATE_FAILED if errors else ExitCode.DONE


@settings_model(kw_only=True)
class MonitorOutput(VerboseOutput):
    """Output."""

    fail_on: Annotated[Literal["warning", "error"] | None, Flag("SEVERITY")] = None
    """Exit with 1 on an alert of at least this severity."""


def monitor(settings: MonitorSettings, out: MonitorOutput) -> int:
    """Works on files of any size, without PyTorch.

    Examples:

      gradience monitor ./run.jsonl --verbose

      gradience monitor seed*/run.jsonl

      gradience monitor ./run.jsonl --fail-on error
    """
    report = call(gradience.monitor_runs, settings)
    out.show(report)
    severities = {alert.severity for run in report.runs for alert in run.alerts}
    met = out.fail_on in severities or (out.fail_on == "warning" and "error" in severities)
    return ExitCode.GATE_FAILED if met else ExitCode.DONE


@settings_model(kw_only=True)
class GradedOutput(TextsOutput):
    """Output."""

    require_grade: Annotated[Literal["B", "C"], Flag("GRADE")] = "B"
    """Required grade: exit with 8 for a C if B is required, with 1 for a D."""


def evidence(settings: EvidenceSettings, out: GradedOutput) -> int:
    """Reports whether the candidate stays within your margin of the reference, with confidence bounds, and the
    examples on which they differ.

    Reads samples of lm-eval (--log_samples), logs of Inspect (.eval), records of Every Eval Ever, and CSV, TSV or
    JSON lines with `id` and `score`.

    Examples:

      gradience evidence runs/base runs/lora --filter strict-match

      gradience evidence probe.csv truncated.csv --require-grade C
    """
    report = call(gradience.compare_logs, settings, command=command_line())
    out.show(report)
    if report.grade <= out.require_grade:
        return ExitCode.DONE
    return ExitCode.INCONCLUSIVE if report.grade == "C" else ExitCode.GATE_FAILED


def verify(settings: VerifySettings, out: TextsOutput) -> int:
    """Recomputes digests, scores of the stored answers, counts, verdicts, aggregate and pages, and compares them.
    What was not checked is listed. Only --regenerate needs the model. The verdict is "consistent", or
    "verified" if --root or --plan was given and matches. Exit codes: 0 nothing disagrees, 1 something does.

    Examples:

      gradience verify runs/mine

      gradience verify runs/mine --root 5e2dad3437c42908dacc05164a5c6fa313983eef2258ffe9ef34b4997834ae43

      gradience verify runs/mine --data --regenerate 16
    """
    existing_folder(Path(settings.folder))  # before the imports of every kind of result
    report = out.run(gradience.verify, settings, f"verifying {settings.folder}")
    out.show(report)
    return ExitCode.DONE if report.verdict != "mismatch" else ExitCode.GATE_FAILED
