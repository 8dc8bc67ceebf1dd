"""How was it written? The encoding, the config, and what happened to everything else."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gradience.compress.encodings import ENCODINGS, Target
from gradience.compress.forms import FORMS, PEFT, encode_for, form_of
from gradience.reports.base.blocks import Block, Facts, Heading, Inline, Note, Notes, Span
from gradience.reports.base.numbers import count, plural
from gradience.reports.base.view import View
from gradience.reports.compression import CompressionPlan, CompressionReport, Encoding

Fact = tuple[str, Inline]

SHOWN_NAMES, LISTED_NAMES = 3, 100


def written_blocks(compression: CompressionPlan | CompressionReport, view: View) -> list[Block]:
    """Return one fact for each part of the folder, and warnings; of a plan what is known of it."""
    most = SHOWN_NAMES if view.brief else LISTED_NAMES
    if isinstance(compression, CompressionPlan):
        facts = _planned(compression, most)
        return [Heading("How would it be written?"), Facts(facts)] if facts else []
    warnings = [Note("warning", warning) for warning in compression.warnings]
    facts = [*_written(compression), *_lists(compression, most)]
    return [Heading("How was it written?"), Facts(facts), *([Notes(warnings)] if warnings else [])]


def _planned(plan: CompressionPlan, most: int) -> list[Fact]:
    """The encoding without --encoding, where the scale is known, and the modules that would be left out."""
    kept = [module for module in plan.modules if module.new_rank]
    targets = [Target(row.name, row.new_rank, row.scale) for row in kept if row.scale is not None]
    facts: list[Fact] = []
    if len(targets) == len(kept):
        encoded = encode_for(form_of(None, plan.format), targets, None)
        facts.append(("encoding", f"by default {_encoding(encoded.encoding, encoded.reason)}"))
    left_out = [module.name for module in plan.modules if not module.new_rank]
    return [*facts, *_listed("left out", "module at rank 0", "modules at rank 0", left_out, most)]


def _written(report: CompressionReport) -> list[Fact]:
    """What the folder holds."""
    form = FORMS.get(report.format)
    facts: list[Fact] = [
        *([] if form is None else [("format", f"{form.words}: {form.weights}")]),
        ("encoding", _encoding(report.encoding, report.encoding_reason)),
        ("factors", _factors(report)),
        ("config", _config(report)),
        ("copied", _copied(report)),
    ]
    check = report.peft_check
    if check is None:
        return facts
    modules, tensors = plural(check.modules, "module"), plural(check.tensors, "tensor")
    loaded = f"by PEFT {check.peft}: {modules} with these ranks and scales, {tensors} bit for bit"
    return [*facts, ("loaded", loaded)]


def _lists(report: CompressionReport, most: int) -> list[Fact]:
    """What is not in the folder, or not as it was; only what there is."""
    says = "whose first block now says that it describes the original"
    groups = (
        ("left out", "module at rank 0", "modules at rank 0", report.dropped),
        ("stripped", "tensor", "tensors", report.stripped),
        ("annotated", f"file {says}", f"files {says}", report.annotated_files),
        ("not copied", "file", "files", report.left_out_files),
    )
    return [fact for label, one, many, names in groups for fact in _listed(label, one, many, names, most)]


def _listed(label: str, one: str, many: str, names: Sequence[str], most: int) -> list[Fact]:
    """How many there are, the first names, and how many more; nothing where there is none."""
    if not names:
        return []
    parts: list[str | Span] = [plural(len(names), one, many)]
    for name in names[:most]:
        parts += [", " if len(parts) > 1 else ": ", Span(name, "name")]
    rest = len(names) - most
    return [(label, (*parts, f" and {count(rest)} more" if rest > 0 else ""))]


def _encoding(encoding: Encoding, reason: str) -> str:
    return f"{encoding} ({reason}): {ENCODINGS[encoding].meaning}"


def _factors(report: CompressionReport) -> str:
    """Storage type, and how many modules are byte for byte what they were."""
    written = [module for module in report.modules if module.new_rank]
    copied = sum(module.unchanged for module in written)
    folded = sum(module.folded != 1.0 for module in written)
    parts = [f"stored as {'+'.join(sorted({module.dtype.lower() for module in written}))}"]
    parts += [f"{count(copied)} of {plural(len(written), 'module')} copied byte for byte"] if copied else []
    parts += [f"B of {plural(folded, 'module')} multiplied by a factor of the scale"] if folded else []
    names = "as PEFT does" if report.format == PEFT else f"as in {FORMS[report.format].words}"
    parts += [f"{plural(report.renamed, 'tensor')} renamed {names}"] if report.renamed else []
    return "; ".join(parts)


def _config(report: CompressionReport) -> Inline:
    """The changed fields of adapter_config.json."""
    parts: list[str | Span] = []
    for name, change in report.config_changes.items():
        before, _, after = change.partition(" -> ")
        parts += ["; " if parts else "", Span(name, "name"), f" {_setting(before)} → {_setting(after)}"]
    return tuple(parts) or "unchanged"


def _setting(text: str) -> str:
    """A list or a mapping by its length, anything else as it is."""
    try:
        value = json.loads(text)
    except ValueError:  # shortened already
        return text
    if value is None or value in ([], {}):
        return "none"
    return plural(len(value), "entry", "entries") if isinstance(value, list | dict) else text


def _copied(report: CompressionReport) -> str:
    """What was copied beside the factors."""
    parts = [plural(report.carried_tensors, "other tensor")] if report.carried_tensors else []
    parts += [plural(len(report.carried_files), "file")] if report.carried_files else []
    return f"{' and '.join(parts)}, byte for byte" if parts else "nothing else was there"
