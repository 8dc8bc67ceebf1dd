"""The plan of a compression, and `compression_report.json`: the files written and the exact error."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field

from gradience.files.artifact import Float12, Part, artifact_row
from gradience.reports.base import blocks as doc
from gradience.reports.base.encodings import Encoding
from gradience.reports.base.modules import ModuleField, kind_blocks, measure, module_table
from gradience.reports.base.numbers import count, max_lora_rank, number_range, percent, plural, size
from gradience.reports.base.prediction import Prediction, prediction_blocks
from gradience.reports.base.report import HubSource, Report, RunInfo, commit_of
from gradience.spectra import GRAM_TOLERANCE

Verdict = Literal["loads", "wrong scale", "wrong meaning", "refuses", "not run"]


@artifact_row
class ModulePlan:
    """Planned rank of one LoRA module (all experts of a stacked tensor share one rank)."""

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
    """‖ΔW‖_F; null if α is unknown."""
    scale: Float12 | None = None
    """s before; null if α is unknown."""
    fixed: str = ""
    """Reason why the module keeps its rank under every criterion; empty otherwise."""


class _Compression(Report):
    """The part that the plan and the result of a compression share."""

    row_field: ClassVar[str] = "modules"

    schema_: str
    criterion: str
    """Description, e.g. `energy ≥ 0.9 per module, ranks from 1, 2, 4, 8`."""
    strength: Annotated[Float12, Field(gt=0, le=10)] = 1.0
    """Factor for the update: every scale s is multiplied by it."""
    kept_energy: Float12
    """Σ over modules of the kept ‖ΔW‖_F² / Σ‖ΔW‖_F² (of ‖B·A‖_F² if α is unknown). With a calibration 1 −
    predicted_error², which may fall below 0: its components are not orthogonal."""
    predicted_error: Float12
    """√(Σ‖ΔW − ΔW′‖² / Σ‖ΔW‖²) in exact arithmetic: √(1 − kept_energy) at strength 1."""
    old_params: int
    new_params: int
    """LoRA parameters; of a result those on disk, with the zeros of a padded encoding."""
    reduction: Float12
    """1 − new_params / old_params (LoRA factors only)."""
    old_bytes: int
    new_bytes: int
    """Size of the LoRA factors; of a result that of the weight files."""
    old_max_lora_rank: int | None
    """max_lora_rank that vLLM needs for the adapter now."""
    new_max_lora_rank: int | None
    calibration_sha256: str | None = None
    """Digest of the calibration that the components come from; null if they come from the SVD."""
    prediction: Prediction | None = None
    """Null without a calibration, or if the prediction is withheld."""
    prediction_withheld: str = ""
    """Reason why there is no prediction although there is a calibration."""

    def screen(self, view: doc.View) -> doc.Document:
        """Return the sections in reading order."""
        return [block for section in SECTIONS for block in section(cast("Compression", self), view)]


class CompressionPlan(_Compression):
    """New ranks for every module, with their predicted error: a pure function of an audit and a criterion.

    >>> plan = compress_adapter("my_adapter", reduction=0.5, dry_run=True)
    >>> f"{plan.reduction:.0%}", f"{plan.predicted_error:.1%}"
    ('50%', '9.2%')
    """

    repair: ClassVar[str] = (
        "print a new plan with `gradience compress --dry-run --json`, and edit only new_rank"
    )

    schema_: Literal["gradience.compression_plan/2"] = "gradience.compression_plan/2"
    adapter_path: str
    adapter_sha256: str
    modules: tuple[ModulePlan, ...]
    max_rank: int


@artifact_row
class ModuleResult:
    """One module as written."""

    name: str
    old_rank: int
    new_rank: int
    stored_rank: int
    """Rank on disk: larger than new_rank if the encoding pads with zeros."""
    scale: Float12
    """s before; afterwards it is multiplied by the report's `strength`."""
    folded: Float12
    """Factor multiplied into B because the config cannot express the scale; 1 if none was needed."""
    dtype: str
    unchanged: bool
    """True if both factors were copied byte for byte."""
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
    """Result of loading such a file in a runtime, if its version, architecture and kinds of tensors were tested."""

    runtime: str
    version: str
    verdict: Verdict
    """`wrong scale` and `wrong meaning`: the file loads without a warning, but the results differ from PEFT."""
    why: str
    """The feature that is refused, wrong, required, or not tested."""
    run: str
    """Page that describes the runs; empty if there was none."""


class CompressionReport(_Compression):
    """`compression_report.json`: the adapter as written, with its exact error.

    >>> report = CompressionReport.read("smaller/compression_report.json")
    >>> f"{report.reduction:.0%}", f"{report.measured_error:.1%}"
    ('50%', '12.6%')
    """

    schema_: Literal["gradience.compression/3"] = "gradience.compression/3"
    source_path: str
    source_sha256: str
    source: HubSource | None = None
    """Hub repository and revision of the reference adapter; null for an adapter on disk."""
    output_path: str
    output_sha256: str
    encoding: Encoding
    encoding_reason: str
    """Reason for the encoding, and its meaning."""
    modules: tuple[ModuleResult, ...]
    dropped: tuple[str, ...]
    """Modules at rank 0, which are removed from the file and from the targets in the config."""
    measured_error: Float12
    """The same error for the factors as stored."""
    carried_tensors: int
    """Other tensors that were copied byte for byte."""
    left_out_tensors: tuple[str, ...] = ()
    """Tensors of other adapters in the file, and copies that PEFT does not read."""
    renamed: int = 0
    """Tensors that were renamed to the names that PEFT saves."""
    carried_files: tuple[str, ...]
    """Files copied byte for byte."""
    annotated_files: tuple[str, ...] = ()
    """Copied files that describe the reference adapter; a block at the top now says so."""
    left_out_files: tuple[str, ...]
    """Files of the source that were not copied because they describe the old weights or are pickles."""
    config_changes: dict[str, str]
    """Field of adapter_config.json -> `old -> new`, shortened."""
    architecture: str | None
    """Class of the base model; null if neither the adapter nor a local config.json names it."""
    runtimes: tuple[RuntimeVerdict, ...]
    warnings: tuple[str, ...] = ()
    run: RunInfo


Compression = CompressionPlan | CompressionReport
Module = ModulePlan | ModuleResult

SHOWN_NAMES, LISTED_NAMES = 3, 100
LISTED_MODULES = 1000
"""Maximum rows of the last table of a document; the JSON has all modules."""
CERTAIN_ERROR = math.sqrt(GRAM_TOLERANCE)
"""Smallest error that can be predicted: the error is √(energy lost), and energies are exact to GRAM_TOLERANCE."""
QUALITY = "Weight error is only a crude guide to accuracy: evaluate both adapters on the task."


def title_blocks(compression: Compression, view: doc.View) -> list[doc.Block]:
    """Return the result in a sentence, the reference adapter, and what needs attention."""
    asked = compression.criterion
    asked += "" if compression.strength == 1 else f", strength {compression.strength:g}"
    if isinstance(compression, CompressionPlan):
        return [
            doc.Heading(("Plan for ", doc.Span(compression.adapter_path, "name")), level=1, aside=asked),
            doc.Paragraph(_result(compression, f"Predicted error: {predicted(compression.predicted_error)}")),
            doc.dim("Dry run: nothing was written."),
        ]
    error = f"Error: {percent(compression.measured_error)}"
    commit = (f", {text}" for text in commit_of(compression.source))
    source: tuple[str | doc.Span, ...] = (
        "Reference adapter: ",
        doc.Span(compression.source_path, "name"),
        *commit,
    )
    silent = [row for row in compression.runtimes if row.verdict in SILENT]
    notes = [*runtime_notes(silent), *(doc.Note("warning", warning) for warning in compression.warnings)]
    return [
        doc.Heading(("Compressed to ", doc.Span(compression.output_path, "name")), level=1, aside=asked),
        doc.Paragraph(f"{_result(compression, error)} {QUALITY}"),
        *([] if view.brief and not compression.source else [doc.Paragraph(source)]),
        doc.Notes(notes),
    ]


def _result(compression: Compression, error: str) -> str:
    """Return the ranks, the saving and the error; of DoRA also the largest error of a whole layer."""
    modules: Sequence[Module] = compression.modules
    truncated = any(module.new_rank < module.old_rank for module in modules)
    ranks = f"Rank {_change(modules)}" if truncated else "No module is truncated"
    layers = [figure for module in modules if (figure := _layer_error(module)) is not None]
    whole = f" Largest error of a whole DoRA layer: {percent(max(layers))}." if layers else ""
    parameters = saved(compression.old_params, compression.new_params)
    return f"{ranks}. LoRA parameters: {parameters}. {error} of the update (‖ΔW − ΔW′‖ / ‖ΔW‖).{whole}"


def saved_blocks(compression: Compression, view: doc.View) -> list[doc.Block]:
    """Return parameters, bytes and vLLM's max_lora_rank, before and after."""
    stored = "weights file" if isinstance(compression, CompressionReport) else "LoRA tensors"
    facts: list[doc.Fact] = [
        (label, f"{show(old)} → {show(new)}, {saved(old, new)}")
        for label, show, old, new in (
            ("LoRA parameters", count, compression.old_params, compression.new_params),
            (stored, size, compression.old_bytes, compression.new_bytes),
        )
    ]
    ranks = map(max_lora_rank, (compression.old_max_lora_rank, compression.new_max_lora_rank))
    facts.append(("vLLM max_lora_rank", " → ".join(dict.fromkeys(ranks))))
    return [doc.Heading("Size"), doc.Facts(facts)]


def kl_blocks(compression: Compression, view: doc.View) -> list[doc.Block]:
    """Return the predicted KL from a calibration."""
    return prediction_blocks(compression.prediction, compression.prediction_withheld)


def saved(before: int, after: int) -> str:
    """Return `50.0 % saved`, `12.5 % more`, `unchanged`."""
    if before == after:
        return "unchanged"
    share = 1 - after / before
    return f"{percent(share)} saved" if share > 0 else f"{percent(-share)} more"


def predicted(error: float | None) -> str:
    """Return a predicted error, or `under …` if it is below the resolution."""
    if error is not None and 0 < error < CERTAIN_ERROR:
        return f"under {percent(CERTAIN_ERROR)}"
    return percent(error)


# ---------------------------------------------------------------- runtime support

LOADING: dict[Verdict, tuple[doc.Mark, str]] = {
    "loads": ("good", "loaded other adapters of this kind"),
    "wrong scale": ("error", "silently applied a wrong scale to other adapters of this kind"),
    "wrong meaning": ("error", "silently computed wrong results with other adapters of this kind"),
    "refuses": ("error", "refused other adapters of this kind"),
    "not run": ("unknown", "not tested"),
}
"""A mark and the words for a runtime. Success first, then silent failures."""
SILENT: tuple[Verdict, ...] = ("wrong scale", "wrong meaning")


def runtime_blocks(compression: Compression, view: doc.View) -> list[doc.Block]:
    """Return the verdict of each runtime but the silent failures, which follow the title; empty for a plan."""
    if isinstance(compression, CompressionPlan):
        return []
    rows = [row for row in compression.runtimes if row.verdict not in SILENT]
    pages = ", ".join(dict.fromkeys(row.run.partition("#")[0] for row in rows if row.run))
    aside = f"tested with other {compression.architecture} adapters ({pages})" if pages else ""
    return [doc.Heading("Runtime support", aside=aside), doc.Notes(runtime_notes(rows))]


def runtime_notes(runtimes: Iterable[RuntimeVerdict]) -> list[doc.Note]:
    """Return one note for all runtimes with the same verdict and reason."""
    alike: dict[tuple[Verdict, str], list[str]] = {}
    for row in runtimes:
        alike.setdefault((row.verdict, row.why), []).append(f"{row.runtime} {row.version}")
    order = list(LOADING)
    notes = []
    # a stable sort: otherwise in recorded order
    for verdict, why in sorted(alike, key=lambda key: order.index(key[0])):
        mark, words = LOADING[verdict]
        text = f"{', '.join(alike[verdict, why])} {words}"
        if why:
            colon = "" if why.startswith("with ") else ":"
            text += f", {why}" if verdict == "loads" else f"{colon} {why}"
        notes.append(doc.Note(mark, text))
    return notes


# ---------------------------------------------------------------- modules


def _change(modules: Sequence[Module]) -> str:
    """`64 → 16`, or one rank if both are equal."""
    before = number_range(module.old_rank for module in modules)
    after = number_range(module.new_rank for module in modules)
    return before if before == after else f"{before} → {after}"


def _error(module: Module) -> float | None:
    return module.predicted_error if isinstance(module, ModulePlan) else module.measured_error


def _layer_error(module: Module) -> float | None:
    return None if isinstance(module, ModulePlan) else module.output_error


def _stored_rank(module: Module) -> int:
    return module.new_rank if isinstance(module, ModulePlan) else module.stored_rank


def _fields(compression: Compression, *, of_kinds: bool) -> list[ModuleField[Module]]:
    """Return the columns of ranks and errors: for a kind of modules the median and the largest error."""
    modules: Sequence[Module] = compression.modules
    padded = any(_stored_rank(module) != module.new_rank for module in modules)
    fields: list[ModuleField[Module]] = [
        (doc.Column("rank", ">"), _change),
        (doc.Column("on disk", ">", shown=padded), lambda some: number_range(map(_stored_rank, some))),
    ]
    show = predicted if isinstance(compression, CompressionPlan) else percent
    for title, value, shown in (("error", _error, show), ("DoRA layer", _layer_error, percent)):
        if of_kinds:
            fields.append(measure(modules, f"median {title}", value, shown, median, drop=1))
            fields.append(measure(modules, f"largest {title}", value, shown, max))
        else:
            fields.append(measure(modules, title, value, shown))
    return fields


def where_blocks(compression: Compression, view: doc.View) -> list[doc.Block]:
    """Return one row per kind of module, the modules that keep their rank, and those that a plan leaves out."""
    modules: Sequence[Module] = compression.modules
    fixed = Counter(module.fixed for module in modules if isinstance(module, ModulePlan) and module.fixed)
    notes: list[doc.Inline] = [
        f"{plural(number, 'module keeps its rank', 'modules keep their rank')}: {reason}"
        for reason, number in fixed.items()
    ]
    dropped = [module.name for module in modules if not module.new_rank]
    if dropped:
        names = doc.first_names(dropped, SHOWN_NAMES if view.brief else LISTED_NAMES)
        notes.append((f"{plural(len(dropped), 'module')} left out at rank 0: ", *names))
    return [
        doc.Heading("Modules"),
        *kind_blocks(modules, lambda module: module.old_params, view, *_fields(compression, of_kinds=True)),
        doc.Notes([doc.Note("info", note) for note in notes]),
    ]


def layer_blocks(compression: Compression, view: doc.View) -> list[doc.Block]:
    """Return one row per module in the order of the adapter, in a document at most LISTED_MODULES."""
    if view.brief:
        return []
    modules: Sequence[Module] = compression.modules
    shown = modules if view.full else modules[:LISTED_MODULES]
    return [
        doc.Heading("All modules", folded=True),
        module_table(
            "module", [(module.name, [module]) for module in shown], *_fields(compression, of_kinds=False)
        ),
        *doc.more(len(modules) - len(shown), "more module", " in the JSON"),
    ]


# ---------------------------------------------------------------- encoding


def encoding_blocks(report: Compression, view: doc.View) -> list[doc.Block]:
    """Return the encoding, the changes of the config, and what was changed or left out; empty for a plan."""
    if isinstance(report, CompressionPlan):
        return []
    most = SHOWN_NAMES if view.brief else LISTED_NAMES
    facts: list[doc.Fact] = []
    if not view.brief or report.encoding != "uniform":
        facts.append(("encoding", f"{report.encoding} ({report.encoding_reason})"))
    if folded := sum(module.folded != 1.0 for module in report.modules if module.new_rank):
        reason = "because the config cannot express the scale"
        facts.append(("rescaled", f"B of {plural(folded, 'module')}, {reason}"))
    config: list[str | doc.Span] = []
    for name, change in report.config_changes.items():
        before, _, after = change.partition(" -> ")
        config += ["; " if config else "", doc.Span(name, "name"), f" {before} → {after}"]
    facts += [("config", tuple(config))] if config else []
    lists = (
        ("note added", report.annotated_files),
        ("tensors left out", report.left_out_tensors),
        ("files left out", report.left_out_files),
    )
    facts += [(label, doc.first_names(names, most)) for label, names in lists if names]
    return [doc.Heading("Written files"), doc.Facts(facts)]


def next_blocks(compression: Compression, view: doc.View) -> list[doc.Block]:
    """Return the next commands and options, on a screen."""
    if isinstance(compression, CompressionPlan):
        given = len(view.paths) > 1  # the output folder
        steps = [
            "leave out --dry-run" if given else "replace --dry-run with --output smaller",
            "to edit the ranks: --json > plan.json, then --plan plan.json",
        ]
    else:
        adapters = f"{view.path(0, compression.source_path)} {view.path(1, compression.output_path)}"
        steps = [f"gradience evaluate {adapters} --data rows.jsonl -o evaluated"]
    steps += [] if view.full else ["every module: --layers"]
    return view.next_steps(*steps)


SECTIONS: tuple[Callable[[Compression, doc.View], list[doc.Block]], ...] = (
    title_blocks,
    kl_blocks,
    saved_blocks,
    where_blocks,
    runtime_blocks,
    encoding_blocks,
    layer_blocks,
    next_blocks,
)
