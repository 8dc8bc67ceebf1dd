"""Verbs that run a model: evaluate, shrink and merge on examples, calibrate and distill on prompts without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import gradience
from gradience.calibrate.settings import CalibrateSettings, DistillSettings
from gradience.cli.console import show_root
from gradience.cli.exit_codes import ExitCode, code_of_grades
from gradience.cli.shared import CodeSettings, LayersOutput, ReportOutput, TextsOutput, require_files
from gradience.evaluate.settings import EvaluateSettings, evaluate_settings
from gradience.merge.settings import MergeSettings
from gradience.settings import Flag, StrPath, required_output, settings_model
from gradience.shrink.settings import ShrinkSettings


@settings_model(kw_only=True)
class Command(CodeSettings):
    """Options."""

    config: Annotated[StrPath | None, Flag("FILE", "-c")] = None
    """A YAML file of these settings (docs/reference/configs.md); flags override it."""


def evaluate(given: Annotated[dict[str, Any], EvaluateSettings], how: Command, out: TextsOutput) -> int:
    """Exit codes: 0 if every candidate is shown to stay within the margin (grade B), 8 if one is inconclusive (C), 1 if
    one is worse (D), 4 if one could not be evaluated (X).

    Examples:

      gradience evaluate ./my_adapter ./smaller --base-model embedded:minilm --task reviews -o out

      gradience evaluate ./my_adapter ./smaller -b ./base --data rows.jsonl --with-base -o out

      gradience evaluate ./my_adapter ./smaller -b ./base --prompts prompts.jsonl --margin 1.5 -o out

      gradience evaluate ./my_adapter ./smaller --data rows.jsonl --guard text:notes.txt --guard lm_eval:arc_easy -o out

      gradience evaluate --config evaluate.yaml --dry-run
    """
    settings = evaluate_settings(given, None if how.config is None else Path(how.config))
    output = None if settings.dry_run or settings.preview else required_output(settings.output, "DIR")
    out.refuse_page(dry_run=output is None)
    from gradience.evaluate.verb import DOCUMENT, EVALUATION, JOINT, JOINT_DOCUMENT

    with how.allowing():
        result = out.watch(gradience.evaluate_adapters, settings)
    if output is None or not isinstance(result, gradience.EvaluationReport | gradience.EvaluationSetsReport):
        out.show_aloud(result)
        return ExitCode.DONE
    out.show(result, folder=output, data=settings.data_file)
    joint = isinstance(result, gradience.EvaluationSetsReport)
    out.written(*(output / name for name in ((JOINT, JOINT_DOCUMENT) if joint else (EVALUATION, DOCUMENT))))
    if not out.quiet:
        show_root(output)
    return code_of_grades(row.grade for row in result.candidates)


def shrink(settings: ShrinkSettings, code: CodeSettings, out: TextsOutput) -> int:
    """Candidates are smaller copies of the adapter, tested from the largest down. The search stops at the first that
    is not shown to stay within the margin.

    Exit codes: 0 if a candidate is shown, 8 if none is shown or the plan was changed after the first answers, 1 if
    the first candidate is worse, 4 if a candidate could not be evaluated.

    Examples:

      gradience shrink ./my_adapter --base-model embedded:minilm --task reviews -o shrunk

      gradience shrink ./my_adapter -b ./base --data rows.jsonl --ranks 16,8,4 --margin 5 -o shrunk

      gradience shrink ./my_adapter -b ./base --data rows.jsonl --guard text --over strength -o weaker
    """
    require_files(settings.data_file, settings.prompts)
    out.refuse_page(dry_run=settings.dry_run)
    from gradience.card import card_of
    from gradience.evaluate.verb import JOINT
    from gradience.shrink.verb import ADAPTER, DEV, DOCUMENT, SHRUNK, TEST

    with code.allowing():
        result = out.watch(gradience.shrink_adapter, replace(settings, card=card_of))
    output = settings.folder
    if isinstance(result, gradience.EvaluationSetsReport):
        reports = [output / part / JOINT for part in (DEV, TEST)]
        out.save_page(*map(gradience.EvaluationSetsReport.read, reports))
        out.print(result)
        out.written(*reports, *filter(Path.is_dir, [output / ADAPTER]))
        return code_of_grades([row.grade for row in result.candidates] or ["C"])
    if not isinstance(result, gradience.ShrinkReport):
        out.show_aloud(result)
        return ExitCode.DONE
    out.show(result, folder=output, data=settings.data_file)
    adapter = [] if result.smallest is None else [ADAPTER]
    out.written(*(output / name for name in (SHRUNK, DOCUMENT, *adapter)))
    if not out.quiet:
        show_root(output)
    return code_of(result)


def code_of(report: gradience.ShrinkReport) -> ExitCode:
    """Return 4 if a candidate could not be evaluated, 0 if one is shown, 1 if the first is worse, else 8.

    If the plan was changed after the first answers, what is shown is exploratory: 8.
    """
    statuses = {candidate.status for candidate in report.candidates}
    if "not evaluated" in statuses:
        return ExitCode.INCOMPLETE
    if report.smallest is not None:
        return ExitCode.INCONCLUSIVE if report.plan.changes else ExitCode.DONE
    return ExitCode.GATE_FAILED if "worse" in statuses else ExitCode.INCONCLUSIVE


def merge(settings: MergeSettings, code: CodeSettings, out: ReportOutput) -> int:
    """The weighted sum is exact and its truncation error is stated; without --data no model is loaded.

    Exit codes with --data: 0 the drop from every parent is shown to be below the margin, 8 for some parents it is not
    shown, 1 the merged adapter is worse than a parent, 4 a comparison could not be made.

    Examples:

      gradience merge ./arithmetic ./sorting -o merged

      gradience merge ./arithmetic ./sorting --method svd --rank 16 --weights 0.7,0.7 -o merged

      gradience merge ./arithmetic ./sorting --method ties --data A=sums.jsonl --data B=lists.jsonl -o merged
    """
    output = required_output(settings.output, "DIR", dry_run=False)
    from gradience.card import card_of
    from gradience.files.card import write_card
    from gradience.reports.merge import DOCUMENT, REPORT

    with code.allowing():
        report = (
            out.watch(gradience.merge_adapters, settings)
            if settings.data
            else out.run(gradience.merge_adapters, settings, f"merging into {output.name}")
        )
    write_card(output, card_of(output))
    out.show(report)
    out.written(output / REPORT, output / DOCUMENT)
    tests = report.certificate.parents if report.certificate else ()
    return code_of_grades(row.merged.grade for row in tests)


def calibrate(settings: CalibrateSettings, out: LayersOutput) -> None:
    """No labels needed: components are scored by how much they change the adapted model's own output. With the written
    file, `gradience compress` chooses directions and ranks by these scores. The screen ends with the KL divergence that
    is predicted for each size.

    Examples:

      gradience calibrate ./my_adapter --prompts rows.jsonl -o calibration.safetensors

      gradience shrink ./my_adapter --calibration calibration.safetensors --data examples.jsonl
    """
    require_files(settings.prompts)
    out.refuse_page(dry_run=settings.dry_run)
    label = f"calibrating {settings.adapter}"
    result = out.run(gradience.calibrate_adapter, settings, label, announce=not settings.dry_run)
    if not isinstance(result, gradience.Calibration):
        out.show_aloud(result)
        return
    base = () if settings.base_model is None else (str(settings.base_model),)
    out.show(result.report, paths=(str(settings.adapter), str(settings.output), *base))
    out.written(settings.output)


def distill(settings: DistillSettings, out: ReportOutput) -> None:
    """The prompts need no labels: the smaller adapter learns the reference adapter's probabilities. The KL divergence
    between the two is measured on held-out prompts before and after. If nothing improves, the adapter is written
    unchanged.

    Example:

      gradience distill ./smaller --teacher ./my_adapter --prompts rows.jsonl -o ./distilled
    """
    require_files(settings.prompts)
    from gradience.card import card_of

    out.refuse_page(dry_run=settings.dry_run)
    settings, label = replace(settings, card=card_of), f"distilling {settings.adapter}"
    result = out.run(gradience.distill_adapter, settings, label, announce=not settings.dry_run)
    if not isinstance(result, gradience.DistillReport):
        out.show_aloud(result)
        return
    out.show(result, paths=(str(settings.teacher), str(settings.output)))
    out.written(settings.output)
