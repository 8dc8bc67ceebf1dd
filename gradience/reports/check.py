"""`gradience check --json`: findings on a training configuration."""

from typing import ClassVar, Literal

from gradience.files.artifact import Float12, Part
from gradience.learning_rate import rate
from gradience.reports.base import blocks as doc
from gradience.reports.base.numbers import plural, trimmed
from gradience.reports.base.report import Report, Severity


class SourceFile(Part):
    """A file that was read, with its dialect."""

    path: str
    dialect: str
    """peft, trainer or trl."""


class SettingsRead(Part):
    """Settings of the files in one vocabulary. Null: not set."""

    objective: str | None = None
    """sft, rl, preference, reward or distillation."""
    adapter: bool | None = None
    """False: no LoRA adapter is trained."""
    base_model: str | None = None
    peft_type: str | None = None
    task_type: str | None = None
    r: int | None = None
    alpha: Float12 | None = None
    scale: Float12 | None = None
    target_modules: tuple[str, ...] | str | None = None
    """Names, a regular expression, or `all-linear`; empty if none were named and there is no default."""
    use_rslora: bool | None = None
    use_dora: bool | None = None
    init: str | None = None
    learning_rate: Float12 | None = None
    optimizer: str | None = None
    schedule: str | None = None
    effective_batch_size: int | None = None
    epochs: Float12 | None = None
    max_steps: int | None = None
    evaluation: str | None = None


class CheckFinding(Part):
    """One finding about the configuration."""

    code: str
    severity: Severity
    field: str
    """The setting that the finding is about, in our vocabulary."""
    where: str | None = None
    """File and key of the setting; null if the finding is about a default."""
    seen: str
    """The value found, as written."""
    advised: str
    message: str
    reason: str
    source: str


class CheckReport(Report):
    """Settings that were read, and all findings.

    >>> from gradience.check import check_config
    >>> [finding.code for finding in check_config(r=16, alpha=16, lr=0.5).findings]
    ['learning-rate']
    """

    row_field: ClassVar[str] = "findings"

    schema_: Literal["gradience.check/2"] = "gradience.check/2"
    gradience_version: str
    task: str | None
    files: tuple[SourceFile, ...]
    settings: SettingsRead
    findings: tuple[CheckFinding, ...]
    passed: tuple[str, ...]
    """Codes of the rules that applied and had no findings."""
    not_applicable: tuple[str, ...]
    """Codes of the rules that do not apply, or that lack a setting."""

    def screen(self, view: doc.View) -> doc.Document:
        """Return the findings with their number, and the settings; in full also sources, and rules without findings."""
        severities = [finding.severity for finding in self.findings]
        nouns = {"error": "error", "warning": "warning", "info": "note"}
        counts = [plural(severities.count(name), noun) for name, noun in nouns.items() if name in severities]
        applied = len({*self.passed, *(finding.code for finding in self.findings)})
        verdict = f"{', '.join(counts) or 'No known mistake found'} ({plural(applied, 'rule')} checked)"
        name = self.files[0].path if self.files else self.settings.base_model
        title = ("Check of ", doc.Span(name, "name"), " before training") if name else "Check before training"
        blocks: list[doc.Block] = [doc.Heading(title, level=1), doc.Paragraph(doc.Span(verdict, "strong"))]
        notes = []
        for finding in self.findings:
            where = "" if finding.where in (None, "as given") else f", {finding.where}"
            details = [f"now: {finding.seen}", f"advised: {finding.advised}", f"why: {finding.reason}"]
            details += [f"source: {finding.source}"] if view.full else []
            notes.append(doc.Note(finding.severity, f"{finding.message} ({finding.code}{where})", details))
        if self.not_applicable:
            codes = ", ".join(self.not_applicable)
            notes.append(doc.Note("info", f"Not checked (not applicable, or a setting is missing): {codes}"))
        facts: list[doc.Fact] = [
            (f"{file.dialect} settings", doc.Span(file.path, "name")) for file in self.files
        ]
        facts.append(("values", settings_sentence(self)))
        if view.full:
            facts.append(("no finding", ", ".join(self.passed) or "none"))
        return [*blocks, doc.Notes(notes), doc.Facts(facts)]


def settings_sentence(report: CheckReport) -> str:
    """Return the settings that were read."""
    s = report.settings
    targets = s.target_modules if isinstance(s.target_modules, str) else ", ".join(s.target_modules or ())
    parts = [
        s.base_model or "",
        f"r={s.r}" if s.r is not None else "",
        f"α={trimmed(s.alpha)}" if s.alpha is not None else "",
        "rsLoRA" if s.use_rslora else "",
        "DoRA" if s.use_dora else "",
        f"learning rate {rate(s.learning_rate)}" if s.learning_rate is not None else "",
        f"batch {s.effective_batch_size}" if s.effective_batch_size is not None else "",
        f"{trimmed(s.epochs)} epoch{'' if s.epochs == 1 else 's'}" if s.epochs is not None else "",
        f"task {report.task}" if report.task else "",
        f"objective {s.objective}" if s.objective not in (None, report.task) else "",
        f"target modules {targets}" if targets else "",
    ]
    return ", ".join(part for part in parts if part) or "no setting was recognized"
