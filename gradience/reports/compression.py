"""The plan of a compression, and `compression_report.json`: what was written, and exactly what was lost."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.files.artifact import ROW_CONFIG, Float12, Part
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Mark,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
    figures,
)
from gradience.reports.base.encodings import ENCODING_NAMES
from gradience.reports.base.modules import NUMBER, Measure, by_kind, measure, module_table, single
from gradience.reports.base.numbers import (
    count,
    max_lora_rank,
    number_range,
    percent,
    plural,
    sig,
    size,
    trimmed,
)
from gradience.reports.base.prediction import CurvePoint, Prediction
from gradience.reports.base.prediction import prediction_blocks as predicted_blocks
from gradience.reports.base.report import PlotOf, Plots, Report
from gradience.reports.base.run import RunInfo
from gradience.reports.base.source import HubSource, InitialAdapter, commit_of
from gradience.reports.base.view import DOCUMENT, View, more
from gradience.spectra import GRAM_TOLERANCE

Encoding = Annotated[str, Field(json_schema_extra=lambda schema: schema.update(enum=list(ENCODING_NAMES)))]
"""How ranks and scales are written: one of ENCODING_NAMES."""
Verdict = Literal["loads", "wrong scale", "wrong meaning", "refuses", "not run"]


PLOTS: Plots = {
    "error": PlotOf("sizes:error_plot", ("What is lost", "What would be lost")),
    "ranks": PlotOf("sizes:ranks_plot", ("What is saved", "What would be saved")),
    "parameters": PlotOf("sizes:parameters_plot", ("What is saved", "What would be saved")),
    "bytes": PlotOf("sizes:bytes_plot", ("What is saved", "What would be saved")),
    "kept": PlotOf("sizes:kept_plot", ("Where?",)),
}
KL_PLOT: Plots = {"kl": PlotOf("sizes:kl_plot", ("Predicted change of the output",))}


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class ModulePlan:
    """What is to become of one LoRA module (all experts of a stacked tensor share one rank)."""

    name: str
    old_rank: int
    new_rank: int
    """0: the module is left out."""
    old_params: int
    new_params: int
    old_bytes: int
    new_bytes: int
    kept_energy: Float12 | None
    """Σσ² kept / Σσ²; null for an untrained module."""
    predicted_error: Float12 | None
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F before storage rounding; null for an untrained module."""
    norm: Float12 | None
    """‖ΔW‖_F; null where α is unknown."""
    scale: Float12 | None = None
    """s, which stays what it is; null where α is unknown."""
    fixed: str = ""
    """Why the module keeps its rank whatever the criterion says; empty otherwise."""


class CompressionPlan(Report):
    """Ranks for every module, and what they are predicted to cost: a pure function of an audit and a criterion.

    >>> plan = compress_adapter("my_adapter", reduction=0.5, dry_run=True)
    >>> f"{plan.reduction:.0%}", f"{plan.predicted_error:.1%}"
    ('50%', '9.2%')
    """

    row_field: ClassVar[str] = "modules"
    repair: ClassVar[str] = (
        "print a new plan with `gradience compress --dry-run --json`, and edit nothing but new_rank"
    )
    plots: ClassVar[Plots] = {**KL_PLOT, **PLOTS}

    schema_: Literal["gradience.compression_plan/1"] = Field(
        default="gradience.compression_plan/1", alias="schema"
    )
    adapter_path: str
    adapter_sha256: str
    format: str = "peft"
    """Of the adapter, as its audit has it."""
    criterion: str
    """In words, e.g. `energy ≥ 0.9 per module, ranks from 1, 2, 4, 8`."""
    modules: tuple[ModulePlan, ...]
    old_params: int
    new_params: int
    old_bytes: int
    new_bytes: int
    reduction: Float12
    """1 − new_params / old_params (LoRA factors only)."""
    kept_energy: Float12
    """Σ over modules of the kept ‖ΔW‖_F² / Σ‖ΔW‖_F² (of ‖B·A‖_F² where α is unknown). With a calibration 1 −
    predicted_error², which may fall below 0: its components are not orthogonal."""
    predicted_error: Float12
    """√(1 − kept_energy)."""
    max_rank: int
    old_max_lora_rank: int | None
    """vLLM's permitted max_lora_rank that the adapter needs now."""
    new_max_lora_rank: int | None
    initial_sha256: str | None = None
    """Of the initial adapter that the update is the difference to; null where there is none."""
    calibration_sha256: str | None = None
    """Of the calibration that its components come from; null for those of the SVD."""
    prediction: Prediction | None = None
    """Null without a calibration, and where it is withheld."""
    prediction_withheld: str = ""
    """Why there is a calibration and no prediction."""
    curve: tuple[CurvePoint, ...] = ()
    """Predictions at other sizes, from large to small; empty without a prediction."""

    def blocks(self) -> Document:
        """Return the sections of a document."""
        return compression_blocks(self)

    def to_text(self, *, width: int | None = None, color: bool = False, layers: bool = False) -> str:
        """Return the screen. layers: whole lists and every module, and nothing points to `--layers`."""
        steps = ("--output DIR in place of --dry-run", "--json > plan.json, and --plan plan.json")
        return self.drawn(_screen(self, layers, *steps), width, color)

    def page_heading(self, heading: Heading) -> Heading:
        """Return the title, and what is saved and kept in one line."""
        return _page_heading(self, heading)


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class ModuleResult:
    """One module as written."""

    name: str
    old_rank: int
    new_rank: int
    stored_rank: int
    """Rank on disk: larger than new_rank where the encoding pads with zeros."""
    scale: Float12
    """s, the same before and after."""
    folded: Float12
    """Factor that B absorbed because the config cannot say this scale; 1 where none was needed."""
    dtype: str
    unchanged: bool
    """True where both factors were copied byte for byte."""
    kept_energy: Float12 | None
    predicted_error: Float12 | None
    measured_error: Float12 | None
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F of the factors as stored; null for an untrained module."""
    output_error: Float12 | None = None
    """DoRA only: ‖W′ − W″‖_F/‖W′ − W‖_F of the whole layers, magnitude and base weight included."""
    old_params: int
    new_params: int
    old_bytes: int
    new_bytes: int
    method: Literal["gram", "qr", "copy", "dropped"]


class RuntimeVerdict(Part):
    """What a runtime makes of this file, where the same was run: its version, architecture and kinds of tensors."""

    runtime: str
    version: str
    verdict: Verdict
    """`wrong scale` and `wrong meaning`: it loads the file without a word, and computes something else than PEFT."""
    why: str
    """What it refuses, gets wrong, needs, or was not run with."""
    run: str
    """Where the runs are described; empty where there was none."""


class PeftCheck(Part):
    """PEFT loaded the folder on a skeleton of the base model: nothing made anew, nothing left aside."""

    peft: str
    """Version, as are the next two."""
    torch: str
    transformers: str
    modules: int
    """LoRA modules (or parameters) that PEFT made, each with the rank and the scale of this report."""
    tensors: int
    """Tensors of the file, each in the loaded model bit for bit."""


class CompressionReport(Report):
    """`compression_report.json`: what was written, and exactly what was lost.

    >>> report = CompressionReport.read("smaller/compression_report.json")
    >>> f"{report.reduction:.0%}", f"{report.measured_error:.1%}"
    ('50%', '12.6%')
    """

    row_field: ClassVar[str] = "modules"
    plots: ClassVar[Plots] = {**PLOTS, **KL_PLOT}

    schema_: Literal["gradience.compression/2"] = Field(default="gradience.compression/2", alias="schema")
    source_path: str
    source_sha256: str
    source: HubSource | None = None
    """Where on the hub the original was read; null for one on the disk."""
    output_path: str
    output_sha256: str
    format: str = "peft"
    """In which it is written: peft, mlx or diffusers."""
    criterion: str
    encoding: Encoding
    encoding_reason: str
    modules: tuple[ModuleResult, ...]
    dropped: tuple[str, ...]
    """Modules at rank 0: left out of the file, and of the targets in the config."""
    kept_energy: Float12
    predicted_error: Float12
    """For the whole adapter: √(Σ‖ΔW − ΔW′‖² / Σ‖ΔW‖²) in exact arithmetic."""
    measured_error: Float12
    """The same for the factors as stored."""
    old_params: int
    new_params: int
    """LoRA parameters on disk (with the zeros of a padded encoding)."""
    reduction: Float12
    old_bytes: int
    """Size of the weight files."""
    new_bytes: int
    old_max_lora_rank: int | None
    new_max_lora_rank: int | None
    carried_tensors: int
    """Tensors copied byte for byte beside the factors."""
    stripped: tuple[str, ...] = ()
    """Tensors left out: on request, of other adapters in the file, and copies that PEFT does not read."""
    renamed: int = 0
    """Tensors that had another name than the one PEFT saves, under which they are written."""
    carried_files: tuple[str, ...]
    """Files copied byte for byte."""
    annotated_files: tuple[str, ...] = ()
    """Carried files that describe the original, with a block on top that says so."""
    left_out_files: tuple[str, ...]
    """Files of the source that are not in the output: they describe the old weights, or are pickles."""
    initial: InitialAdapter | None = None
    """What the update is the difference to; null where there is none."""
    calibration_sha256: str | None = None
    """As in the plan, as are the next three."""
    prediction: Prediction | None = None
    prediction_withheld: str = ""
    curve: tuple[CurvePoint, ...] = ()
    config_changes: dict[str, str]
    """Field of adapter_config.json -> `old -> new`, shortened."""
    peft_check: PeftCheck | None = None
    """Null where it was not asked for."""
    architecture: str | None
    """Class of the base model; null where neither the adapter nor a config.json on this machine names it."""
    runtimes: tuple[RuntimeVerdict, ...]
    warnings: tuple[str, ...] = ()
    run: RunInfo

    def blocks(self) -> Document:
        """Return the sections of a document."""
        return compression_blocks(self)

    def to_text(
        self,
        *,
        width: int | None = None,
        color: bool = False,
        layers: bool = False,
        path: str = "ADAPTER",
        output: str = "SMALLER",
    ) -> str:
        """Return the screen. layers: whole lists and every module, and nothing points to `--layers`.

        path, output: both adapters in the next command.
        """
        steps = (f"gradience compare {path} {output}", "compression_report.md")
        return self.drawn(_screen(self, layers, *steps), width, color)

    def page_heading(self, heading: Heading) -> Heading:
        """Return the title, and what is saved and kept in one line."""
        return _page_heading(self, heading)


Compression = CompressionPlan | CompressionReport
Module = ModulePlan | ModuleResult

SHOWN_KINDS, SHOWN_WORST, LISTED_WORST = 12, 5, 10
SHOWN_RANKS = 6
"""Different ranks that are counted one by one."""
SHOWN_NAMES, LISTED_NAMES = 3, 100
LISTED_MODULES = 1000
"""Rows of the last table of a document; an adapter of many experts has more, and the JSON has them."""
CERTAIN_ERROR = math.sqrt(GRAM_TOLERANCE)
"""A predicted error is the root of an energy that is lost, and energies are known to GRAM_TOLERANCE at worst."""
QUALITY = (
    "Quality: a small error in the weights does not prove equal answers, and weight energy says little about which "
    "module matters. Evaluate the smaller adapter beside the original, on the task (docs/quickstart.md)."
)


def _screen(compression: Compression, layers: bool, *steps: str) -> Document:
    """The brief document, and what to do next. layers: whole lists, and nothing points to `--layers`."""
    following = " · ".join([*steps, *([] if layers else ["--layers"])])
    blocks = compression_blocks(compression, View(brief=not layers, layers=layers))
    return [*blocks, Paragraph(("Next: ", Span(following, "dim")))]


def compression_blocks(compression: Compression, view: View = DOCUMENT) -> Document:
    """Return the sections, in the order of the questions that a reader has."""
    return [block for section in SECTIONS for block in section(compression, view)]


def _page_heading(compression: Compression, heading: Heading) -> Heading:
    parameters = saved(compression.old_params, compression.new_params)
    aside = f"LoRA parameters: {parameters}; {percent(compression.kept_energy)} of the energy kept"
    return Heading(heading.text, aside=aside)


def title_blocks(compression: Compression, view: View) -> list[Block]:
    """Return what was made of which adapter, by which criterion."""
    if isinstance(compression, CompressionPlan):
        return [
            Heading(("Plan for ", Span(compression.adapter_path, "name")), level=1),
            Paragraph(f"{compression.criterion}. Nothing was written."),
        ]
    digests = f"sha256 {compression.output_sha256[:12]} from {compression.source_sha256[:12]}"
    blocks: list[Block] = [
        Heading(("Compressed to ", Span(compression.output_path, "name")), level=1),
        Paragraph(("from ", Span(compression.source_path, "name"), f" · {compression.criterion}")),
    ]
    if compression.initial is not None:
        words = " subtracted: sizes before are twice the adapter's"
        initial = Span(compression.initial.path, "name")
        blocks.append(Paragraph(("B₀·A₀", " of initial adapter ", initial, words)))
    blocks.append(Paragraph(Span(" · ".join([digests, *commit_of(compression.source)]), "dim")))
    if not view.brief:
        by_effect = compression.calibration_sha256 is not None
        method = "keeps the components with the largest effect on the output"
        method = method if by_effect else "is the best approximation of its new rank"
        blocks.append(Paragraph(f"Nothing was trained: each module {method}."))
    return blocks


def saved_blocks(compression: Compression, view: View) -> list[Block]:
    """Return parameters, bytes and the step of vLLM, before and after."""
    is_plan = isinstance(compression, CompressionPlan)
    rows: list[list[Inline]] = []
    for label, shown, old, new in (
        ("LoRA parameters", count, compression.old_params, compression.new_params),
        (
            "LoRA factors" if is_plan else "weights on disk",
            size,
            compression.old_bytes,
            compression.new_bytes,
        ),
    ):
        saving = Span(saved(old, new), "good" if new < old else "dim")
        rows.append([label, shown(old), Span(shown(new), "strong"), saving])
    before, after = compression.old_max_lora_rank, compression.new_max_lora_rank
    same = Span("the same step" if before == after else "", "dim")
    rows.append(["vLLM max_lora_rank", max_lora_rank(before), Span(max_lora_rank(after), "strong"), same])
    zeros = padding(compression.modules)
    sentence = f"{plural(zeros, 'parameter is a zero', 'parameters are zeros')} of padding."
    return [
        Heading("What would be saved?" if is_plan else "What is saved?"),
        Table([Column(), Column("before", ">"), Column("after", ">"), Column()], rows),
        *([Paragraph(sentence)] if zeros else []),
    ]


def saved(before: int, after: int) -> str:
    """Return `50.0 % saved`, `12.5 % more`, `the same`."""
    if before == after:
        return "the same"
    share = 1 - after / before
    return f"{percent(share)} saved" if share > 0 else f"{percent(-share)} more"


def padding(modules: Iterable[Module]) -> int:
    """Return how many zeros bring modules to their rank on disk."""
    return sum(
        module.new_params * (module.stored_rank - module.new_rank) // module.stored_rank
        for module in modules
        if isinstance(module, ModuleResult) and module.stored_rank
    )


def lost_blocks(compression: Compression, view: View) -> list[Block]:
    """Return energy and errors, for DoRA those of whole layers too."""
    foreseen = predicted(compression.predicted_error)
    rows = [("energy kept", percent(compression.kept_energy), "of Σσ² over all modules")]
    title = "What would be lost?"
    if isinstance(compression, CompressionPlan):
        rows.append(("predicted error", foreseen, "‖ΔW − ΔW′‖ / ‖ΔW‖ before storage rounding"))
    else:
        title = "What is lost?"
        rows.append(("error", sig(compression.measured_error), "‖ΔW − ΔW′‖ / ‖ΔW‖ as stored"))
        rows.append(("predicted error", foreseen, "before storage rounding"))
        layers = [error for module in compression.modules if (error := module.output_error) is not None]
        if layers:
            rows.append(("DoRA layers", sig(max(layers)), "largest ‖W′ − W″‖ / ‖W′ − W‖ of a layer"))
    untouched = not any(module.new_rank < module.old_rank for module in compression.modules)
    sentence = "No module is truncated: none has a higher rank than requested."
    return [Heading(title), figures(rows), *([Paragraph(sentence)] if untouched else [])]


def predicted(error: float | None) -> str:
    """Return a predicted error, no smaller than it can be known."""
    return f"under {sig(CERTAIN_ERROR, 1)}" if error is not None and 0 < error < CERTAIN_ERROR else sig(error)


def prediction_blocks(compression: Compression, view: View) -> list[Block]:
    """Return the predicted divergence from a calibration, how far predictions were off so far, and other sizes."""
    return predicted_blocks(compression.prediction, compression.prediction_withheld, compression.curve)


# ---------------------------------------------------------------- which runtimes load it?

LOADING: dict[Verdict, tuple[Mark, str, str]] = {
    "loads": ("good", "loads it", "load it"),
    "wrong scale": ("error", "loads it with a wrong scale, silently", "load it with a wrong scale, silently"),
    "wrong meaning": ("error", "loads it and gets it wrong, silently", "load it and get it wrong, silently"),
    "refuses": ("error", "refuses it", "refuse it"),
    "not run": ("unknown", "", ""),
}
"""A mark, the words for one runtime, and for several; the good news first, then what goes wrong in silence."""


def runtime_blocks(compression: Compression, view: View) -> list[Block]:
    """Return verdicts on what was written; nothing of a plan, or of a format that the runtimes do not read."""
    if isinstance(compression, CompressionPlan) or not compression.runtimes:
        return []
    run = [row for row in compression.runtimes if row.run]
    pages = ", ".join(dict.fromkeys(row.run.partition("#")[0] for row in run))
    blocks: list[Block] = [Heading("Which runtimes load it?")]
    for title, rows in (
        (f"Run on {compression.architecture} with such tensors ({pages}):", run),
        ("Not run:", [row for row in compression.runtimes if not row.run]),
    ):
        blocks += [Paragraph(Span(title, "dim")), Notes(runtime_notes(rows))] if rows else []
    return blocks


def runtime_notes(runtimes: Iterable[RuntimeVerdict]) -> list[Note]:
    """Return one note for all runtimes with one verdict for one reason."""
    alike: dict[tuple[Verdict, str], list[str]] = {}
    for row in runtimes:
        alike.setdefault((row.verdict, row.why), []).append(f"{row.runtime} {row.version}")
    order = list(LOADING)
    notes = []
    for verdict, why in sorted(
        alike, key=lambda key: order.index(key[0])
    ):  # stable: else as they were recorded
        names = alike[verdict, why]
        mark, *words = LOADING[verdict]
        text = " ".join(filter(None, (", ".join(names), words[len(names) > 1])))
        if why:
            text += f", {why}" if verdict == "loads" else f": {why}"
        notes.append(Note(mark, text))
    return notes


# ---------------------------------------------------------------- where is it lost?


def _change(field: str, show: Callable[[list[int]], str]) -> Callable[[Sequence[Module]], str]:
    """`64 → 16`, or one of them where they are equal."""

    def cell(modules: Sequence[Module]) -> str:
        before, after = (
            show([getattr(module, f"{when}_{field}") for module in modules]) for when in ("old", "new")
        )
        return before if before == after else f"{before} → {after}"

    return cell


def _written(field: str) -> Callable[[Module], float | None]:
    """A figure that a plan does not have."""
    return lambda module: getattr(module, field) if isinstance(module, ModuleResult) else None


def _stored_rank(module: Module) -> int:
    return module.stored_rank if isinstance(module, ModuleResult) else module.new_rank


def error_of(module: Module) -> float | None:
    """Return the measured error of a written module, the predicted one of a planned."""
    return module.measured_error if isinstance(module, ModuleResult) else module.predicted_error


RANK: Measure[Module] = Measure(Column("rank", ">"), _change("rank", number_range))
ON_DISK: Measure[Module] = Measure(
    Column("on disk", ">", drop=4),
    lambda modules: number_range(map(_stored_rank, modules)),
    lambda modules: any(_stored_rank(module) != module.new_rank for module in modules),
)
KEPT: Measure[Module] = measure("kept", lambda module: module.kept_energy, percent)
PREDICTED: Measure[Module] = measure(
    "predicted", lambda module: module.predicted_error, predicted, max, drop=3
)
ERROR: Measure[Module] = measure("error", _written("measured_error"), sig, max)
LAYER_ERROR: Measure[Module] = measure("DoRA layer", _written("output_error"), sig, max)
PARAMETERS: Measure[Module] = Measure(
    Column("parameters", ">", drop=2), _change("params", lambda numbers: count(sum(numbers)))
)
BYTES: Measure[Module] = Measure(
    Column("bytes", ">", drop=1), _change("bytes", lambda numbers: size(sum(numbers)))
)


def where_blocks(compression: Compression, view: View) -> list[Block]:
    """Return one row for each kind, the modules that lose most, the new ranks, and modules that keep theirs."""
    modules: Sequence[Module] = compression.modules
    kinds, hidden = by_kind(modules, lambda module: module.old_params, SHOWN_KINDS if view.brief else None)
    error = PREDICTED if isinstance(compression, CompressionPlan) else ERROR
    losing = worst(modules, SHOWN_WORST if view.brief else LISTED_WORST)
    notes = []
    ranks = Counter(module.new_rank for module in modules)
    if len(ranks) > SHOWN_RANKS:
        middle = trimmed(median(ranks.elements()))
        notes.append(f"new ranks: {min(ranks)} to {max(ranks)}, median {middle}")
    elif len(ranks) > 1:
        counts = (f"{rank} in {plural(number, 'module')}" for rank, number in sorted(ranks.items()))
        notes.append(f"new ranks: {', '.join(counts)}")
    fixed = Counter(module.fixed for module in modules if isinstance(module, ModulePlan) and module.fixed)
    for reason, number in fixed.items():
        notes.append(f"{plural(number, 'module keeps its rank', 'modules keep their rank')}: {reason}")
    return [
        Heading("Where?", aside="of each kind: median energy kept, largest error"),
        module_table("kind", kinds, (NUMBER, RANK, ON_DISK, KEPT, error, LAYER_ERROR, PARAMETERS)),
        *more(hidden, "more kind of modules", view.rest, "more kinds of modules"),
        *([module_table("loses most", single(losing), (RANK, KEPT, error))] if losing else []),
        *([Notes([Note("info", note) for note in notes])] if notes else []),
    ]


def worst(modules: Iterable[Module], number: int) -> list[Module]:
    """Return the truncated modules that lose most: rounding alone is no loss to speak of."""
    lossy = [
        module
        for module in modules
        if module.new_rank < module.old_rank and (module.predicted_error or 0.0) > CERTAIN_ERROR
    ]
    return sorted(lossy, key=lambda module: (-(error_of(module) or 0.0), module.name))[:number]


def layer_blocks(compression: Compression, view: View) -> list[Block]:
    """Return one row for each module, in the order of the adapter; a document lists the first LISTED_MODULES."""
    if view.brief:
        return []
    modules: Sequence[Module] = compression.modules
    shown = modules if view.layers else modules[:LISTED_MODULES]
    table = module_table(
        "module", single(shown), (RANK, ON_DISK, KEPT, PREDICTED, ERROR, LAYER_ERROR, PARAMETERS, BYTES)
    )
    return [Heading("Every module"), table, *more(len(modules) - len(shown), "more module", " in the JSON")]


# ---------------------------------------------------------------- how was it written?

Fact = tuple[str, Inline]


def written_blocks(compression: Compression, view: View) -> list[Block]:
    """Return one fact for each part of the folder, and warnings; of a plan what is known of it."""
    most = SHOWN_NAMES if view.brief else LISTED_NAMES
    if isinstance(compression, CompressionPlan):
        facts = _planned_facts(compression, most)
        return [Heading("How would it be written?"), Facts(facts)] if facts else []
    warnings = [Note("warning", warning) for warning in compression.warnings]
    facts = _written_facts(compression, most)
    return [Heading("How was it written?"), Facts(facts), *([Notes(warnings)] if warnings else [])]


def _planned_facts(plan: CompressionPlan, most: int) -> list[Fact]:
    """The encoding without --encoding, where the scale is known, and the modules that would be left out."""
    from gradience.compress.encodings import ENCODINGS, Target
    from gradience.compress.forms import encode_for, form_of

    kept = [module for module in plan.modules if module.new_rank]
    targets = [Target(row.name, row.new_rank, row.scale) for row in kept if row.scale is not None]
    facts: list[Fact] = []
    if len(targets) == len(kept):
        encoded = encode_for(form_of(None, plan.format), targets, None)
        meaning = ENCODINGS[encoded.encoding].meaning
        facts.append(("encoding", f"by default {encoded.encoding} ({encoded.reason}): {meaning}"))
    left_out = [module.name for module in plan.modules if not module.new_rank]
    return [*facts, *_listed("left out", "module at rank 0", "modules at rank 0", left_out, most)]


def _written_facts(report: CompressionReport, most: int) -> list[Fact]:
    """The parts of the folder; then what is not in it, or not as it was."""
    from gradience.compress.encodings import ENCODINGS
    from gradience.compress.forms import FORMS, PEFT

    form = FORMS.get(report.format)
    written = [module for module in report.modules if module.new_rank]
    unchanged = sum(module.unchanged for module in written)
    folded = sum(module.folded != 1.0 for module in written)
    factors = [f"stored as {'+'.join(sorted({module.dtype.lower() for module in written}))}"]
    if unchanged:
        factors.append(f"{count(unchanged)} of {plural(len(written), 'module')} copied byte for byte")
    if folded:
        factors.append(f"B of {plural(folded, 'module')} multiplied by a factor of the scale")
    if report.renamed:
        names = "as PEFT does" if report.format == PEFT else f"as in {FORMS[report.format].words}"
        factors.append(f"{plural(report.renamed, 'tensor')} renamed {names}")
    config: list[str | Span] = []
    for name, change in report.config_changes.items():
        before, _, after = change.partition(" -> ")
        config += ["; " if config else "", Span(name, "name"), f" {_setting(before)} → {_setting(after)}"]
    copied = [plural(report.carried_tensors, "other tensor")] if report.carried_tensors else []
    copied += [plural(len(report.carried_files), "file")] if report.carried_files else []
    meaning = ENCODINGS[report.encoding].meaning
    facts: list[Fact] = [
        *([] if form is None else [("format", f"{form.words}: {form.weights}")]),
        ("encoding", f"{report.encoding} ({report.encoding_reason}): {meaning}"),
        ("factors", "; ".join(factors)),
        ("config", tuple(config) or "unchanged"),
        ("copied", f"{' and '.join(copied)}, byte for byte" if copied else "nothing else was there"),
    ]
    if report.peft_check is not None:
        check = report.peft_check
        modules, tensors = plural(check.modules, "module"), plural(check.tensors, "tensor")
        loaded = f"by PEFT {check.peft}: {modules} with these ranks and scales, {tensors} bit for bit"
        facts.append(("loaded", loaded))
    says = "whose first block now says that it describes the original"
    return [
        *facts,
        *_listed("left out", "module at rank 0", "modules at rank 0", report.dropped, most),
        *_listed("stripped", "tensor", "tensors", report.stripped, most),
        *_listed("annotated", f"file {says}", f"files {says}", report.annotated_files, most),
        *_listed("not copied", "file", "files", report.left_out_files, most),
    ]


def _listed(label: str, one: str, many: str, names: Sequence[str], most: int) -> list[Fact]:
    """How many there are, the first names, and how many more; nothing where there is none."""
    if not names:
        return []
    parts: list[str | Span] = [plural(len(names), one, many)]
    for name in names[:most]:
        parts += [", " if len(parts) > 1 else ": ", Span(name, "name")]
    rest = len(names) - most
    return [(label, (*parts, f" and {count(rest)} more" if rest > 0 else ""))]


def _setting(text: str) -> str:
    """A list or a mapping by its length, anything else as it is."""
    try:
        value = json.loads(text)
    except ValueError:  # shortened already
        return text
    if value is None or value in ([], {}):
        return "none"
    return plural(len(value), "entry", "entries") if isinstance(value, list | dict) else text


# ---------------------------------------------------------------- what ends a document


def caveat_blocks(compression: Compression, view: View) -> list[Block]:
    """Return what no compression shows."""
    return [Heading("What does this not show?"), Paragraph(QUALITY)]


def provenance_blocks(compression: Compression, view: View) -> list[Block]:
    """Return what made the adapter, and the full digests; a document has them."""
    if view != DOCUMENT or isinstance(compression, CompressionPlan):
        return []
    facts: list[Fact] = [
        ("command", Span(compression.run.command, "name")),
        ("Gradience", compression.run.gradience_version),
        ("sha256 of the weights", Span(compression.output_sha256, "name")),
        ("sha256 of the original", Span(compression.source_sha256, "name")),
    ]
    return [Heading("Provenance"), Facts(facts)]


SECTIONS: tuple[Callable[[Compression, View], list[Block]], ...] = (
    title_blocks,
    saved_blocks,
    lost_blocks,
    prediction_blocks,
    runtime_blocks,
    where_blocks,
    written_blocks,
    caveat_blocks,
    layer_blocks,
    provenance_blocks,
)
