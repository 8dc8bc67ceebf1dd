"""`audit.json` as a document. A section is one function in a file of its own and one line in SECTIONS.

view.py         how much is shown
trust.py        can I trust it? And the findings
space.py        what takes the space? Where it is not LoRA weights of 16 bits alone
use.py          how much of its rank does it use?
effects.py      what matters to the output? With a calibration
dominance.py    how large is it beside the base? With the base's weights
ranks.py        what ranks are suggested?
where.py        where? The maps (heat.py) and the modules at both ends
layers.py       every module
lora_config.py  a LoraConfig to copy
trend.py        several audits in one table; series.py: are they steps of one run?
"""

from __future__ import annotations

from collections.abc import Callable

from gradience.adapters.formats import words_of
from gradience.report.audit.dominance import dominance_blocks
from gradience.report.audit.effects import effect_blocks
from gradience.report.audit.layers import layer_blocks
from gradience.report.audit.ranks import rank_blocks
from gradience.report.audit.space import space_blocks
from gradience.report.audit.trust import finding_blocks, number_types, trust_blocks
from gradience.report.audit.use import use_blocks
from gradience.report.audit.view import DOCUMENT, View
from gradience.report.audit.where import where_blocks
from gradience.reports.audit import AuditReport
from gradience.reports.base import terminal
from gradience.reports.base.blocks import Block, Document, Heading, Paragraph, Span
from gradience.reports.base.numbers import count, number_range, plural, size
from gradience.reports.base.source import commit_of

SHOWN_WASTEFUL, SHOWN_FULLEST = 3, 2
"""Modules at either end that the screen lists."""
BESIDE_MAP = 46
"""Columns of a terminal that stand around the signs of a map."""
HYPOTHESIS = "Quality: each rank is a hypothesis until evaluated on the task, over seeds."
NO_QUALITY = "Quality: an audit measures weights, not answers."


def audit_text(
    report: AuditReport,
    *,
    width: int | None = None,
    color: bool = False,
    top_wasteful: int = SHOWN_WASTEFUL,
    layers: bool = False,
) -> str:
    """Return the screen of one adapter, about 45 lines.

    width: columns of the terminal; None for a file or a pipe. top_wasteful: modules listed with most spare rank.
    layers: every module and every finding with its hint, and nothing points to `--layers`.
    """
    columns = max(terminal.MIN_WIDTH, width or terminal.DEFAULT_WIDTH) - BESIDE_MAP
    view = View(not layers, layers, top_wasteful, SHOWN_FULLEST, columns)
    steps = [*smaller(report), *([] if layers else ["--layers"])]
    steps += ["--suggest-per-layer (a LoraConfig to copy)"] if report.suggestions else []
    following = Paragraph(("Next: ", Span(" · ".join([*steps, "--json"]), "dim")))
    return terminal.render([*audit_blocks(report, view), following], width=width, color=color)


def smaller(report: AuditReport) -> list[str]:
    """The command that would write the first suggestion that is smaller; none where none is.

    ADAPTER stands for the path: of an absolute one the report knows only the last part.
    """
    plan = report.suggestions
    saved = {"uniform_median": plan.median.reduction, "per_layer": plan.per_layer.reduction} if plan else {}
    named = next((name for name, reduction in saved.items() if reduction > 0), None)
    return [f"gradience compress ADAPTER --suggested {named} --dry-run"] if named else []


def audit_blocks(report: AuditReport, view: View = DOCUMENT) -> Document:
    """Return the sections, in the order of the questions that a reader has."""
    return [block for section in SECTIONS for block in section(report, view)]


def title_blocks(report: AuditReport, view: View) -> list[Block]:
    """Path, kind, rank, scale, base; modules, parameters, bytes, storage type, digest."""
    adapter = report.adapter
    base = f"on {adapter.base_model}" if adapter.base_model else "base model not named"
    ranks = f"r {number_range(layer.r for layer in report.layers)}"
    inventory = [
        plural(report.n_layers, "module"),
        f"{count(report.total_lora_params)} LoRA parameters",
        f"{size(adapter.bytes)} {number_types(report)}",
        f"sha256 {adapter.sha256[:12]}",
        *commit_of(adapter.source),
    ]
    difference = adapter.initial and Paragraph(
        (
            "difference to the initial adapter ",
            Span(adapter.initial.path, "name"),
            ", of twice the adapter's rank",
        )
    )
    return [
        Heading(("Audit of ", Span(adapter.path, "name")), level=1),
        Paragraph(" · ".join([kind_of_adapter(report), ranks, alpha_and_scale(report), base])),
        *([difference] if difference else []),
        Paragraph(Span(" · ".join(inventory), "dim")),
    ]


def kind_of_adapter(report: AuditReport) -> str:
    """`PEFT LoRA`, or what else the file is."""
    adapter = report.adapter
    kind = words_of(adapter.format)
    return f"{kind} (DoRA: magnitudes are not part of this)" if adapter.use_dora else kind


def alpha_and_scale(report: AuditReport) -> str:
    """`α 128, s = α/r = 2`; says so where the file does not tell."""
    alphas = [layer.alpha for layer in report.layers if layer.alpha is not None]
    scales = [layer.scale for layer in report.layers if layer.scale is not None]
    if not alphas or not scales:
        return "α unknown"
    rule = "α/√r" if report.adapter.use_rslora else "α/r"
    return f"α {number_range(alphas)}, s = {rule} = {number_range(scales)}"


def caveat_blocks(report: AuditReport, view: View) -> list[Block]:
    """What no audit shows."""
    return [Heading("What does this not show?"), Paragraph(HYPOTHESIS if report.suggestions else NO_QUALITY)]


SECTIONS: tuple[Callable[[AuditReport, View], list[Block]], ...] = (
    title_blocks,
    trust_blocks,
    space_blocks,
    use_blocks,
    effect_blocks,
    dominance_blocks,
    rank_blocks,
    where_blocks,
    finding_blocks,
    caveat_blocks,
    layer_blocks,
)
