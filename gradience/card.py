"""An adapter's model card: how it was made, its evaluation, loading code, and the hub's YAML.

All of it is read from the adapter's folder and from reports whose digests name its weights.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gradience.adapters.adapter import Adapter
from gradience.adapters.base import architecture_of
from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG
from gradience.audit.adapter import audit_opened
from gradience.compress import carry
from gradience.digests import sha256_file
from gradience.errors import InputError, require
from gradience.files.card import (
    CARD,
    OURS,
    Card,
    CardSettings,
    FrontMatter,
    block_in,
    read_card,
    text_of,
    write_card,
)
from gradience.ranks import max_lora_rank_step
from gradience.reports.audit import AuditReport
from gradience.reports.base import markdown
from gradience.reports.base.blocks import Block, Code, Facts, Heading, Inline, Notes, Span
from gradience.reports.base.graded import GRADES
from gradience.reports.base.numbers import count, number_range, sig, signed, size, trimmed
from gradience.reports.compression import CompressionReport, RuntimeVerdict, runtime_notes
from gradience.reports.distill import DistillReport
from gradience.reports.evaluation import EvaluatedAdapter, EvaluationReport, bound_cell
from gradience.reports.merge import REPORT as MERGE_REPORT
from gradience.reports.merge import MergeReport, card_blocks
from gradience.reports.shrink import ShrinkReport, tested_by
from gradience.runtimes.verdict import verdicts
from gradience.settings import public
from gradience.words import points

Evaluation = EvaluationReport | ShrinkReport
EVALUATED = "evaluated on"
"""The row that every block with an evaluation has."""
BESIDE = ("evaluation.json", "shrink.json")
"""Evaluations that are looked for in the adapter's folder and in the one above it."""
TASKS = {
    "CAUSAL_LM": ("text-generation", "AutoPeftModelForCausalLM"),
    "SEQ_2_SEQ_LM": ("text2text-generation", "AutoPeftModelForSeq2SeqLM"),
    "SEQ_CLS": ("text-classification", "AutoPeftModelForSequenceClassification"),
    "TOKEN_CLS": ("token-classification", "AutoPeftModelForTokenClassification"),
    "QUESTION_ANS": ("question-answering", "AutoPeftModelForQuestionAnswering"),
    "FEATURE_EXTRACTION": ("feature-extraction", "AutoPeftModelForFeatureExtraction"),
}
"""Task of the config -> the hub's name, and PEFT's class (0.21, auto.py)."""
OTHER_TASK = ("other", "AutoPeftModel")
_PLAIN = re.compile(r"[\w.\-]+(/[\w.\-]+)?", re.ASCII)
_HEAD = re.compile(r"\.(classifier|score)(\.out_proj)?\.weight$")
Rows = list[tuple[str, Inline]]
Written = TypeVar("Written", CompressionReport, DistillReport, MergeReport)


class UpdatedCard(NamedTuple):
    """The card of an adapter. block: what Gradience says in it."""

    path: Path
    changed: bool
    block: str


@public(CardSettings)
def update_card(settings: CardSettings) -> UpdatedCard:
    """Write the facts about the adapter in the folder `adapter` into its README.md, and return the written block.

    >>> update_card("smaller").changed
    True

    An earlier block is replaced; the text around it does not change.
    Keywords, named like the flags of `gradience card`:

    Raises InputError (`no-folder`, `other-adapter`, `bad-front-matter`, and what `audit_adapter` raises), MissingExtra
    without huggingface_hub, OutputError if the file cannot be written.
    """
    adapter = Path(settings.adapter)
    if not adapter.is_dir():
        raise InputError(
            f"{adapter}: not a folder",
            code="no-folder",
            hint="name the folder of an adapter: its card is the README.md in it",
        )
    if not settings.dry_run:
        require("huggingface_hub", extra="hub")
    evaluation = None if settings.evaluation is None else read_evaluation(Path(settings.evaluation))
    content = card_of(adapter, evaluation)
    if settings.note and EVALUATED in block_in(read_card(adapter)) and EVALUATED not in content.block:
        lost = f"the card has an evaluation, but there is no {' or '.join(BESIDE)} for these weights here:"
        settings.note(f"{lost} it is left out. Give --evaluation FILE to keep it.")
    changed = False if settings.dry_run else write_card(adapter, content, strict=True)
    return UpdatedCard(adapter / CARD, changed, content.block)


def card_of(folder: Path, evaluation: Evaluation | None = None, *, opened: Adapter | None = None) -> Card:
    """Return the block (Markdown) and the YAML for the card of the adapter in `folder`.

    evaluation: the one to show; by default that in the folder, or in the one above it, which names these weights.
    opened: the adapter, if it is already open.

    Raises what `audit_adapter` raises, and InputError (`other-adapter`) if `evaluation` has another adapter's rows.
    """
    with open_adapter(folder) if opened is None else nullcontext(opened) as adapter:
        sha256 = adapter.sha256()
        compression = _of_these_weights(CompressionReport, folder / carry.REPORT, sha256)
        distillation = _of_these_weights(DistillReport, folder / carry.DISTILL_REPORT, sha256)
        if distillation is not None and not distillation.improved:
            distillation = None
        merge = _of_these_weights(MergeReport, folder / MERGE_REPORT, sha256)
        opening: list[str] = []
        rows: Rows = []
        source = None
        if compression is not None:
            opening = [
                carry.compressed_opening(
                    compression.modules, compression.measured_error, compression.strength
                )
            ]
            old, new = compression.old_params, compression.new_params
            rows.append(("LoRA parameters", f"{count(new)} (reference adapter: {count(old)})"))
            source = compression.source_sha256
        if distillation is not None:
            opening = [carry.distilled_opening(distillation.best_step)]
            before, after = sig(distillation.before.kl_per_token), sig(distillation.after.kl_per_token)
            held_out = f"on {count(distillation.held_out_rows)} held-out examples"
            rows.append(
                (
                    "distilled",
                    f"KL/{distillation.unit} from the reference adapter {before} → {after} nats, {held_out}",
                )
            )
            source = source or distillation.teacher_sha256
        if merge is not None:
            opening = [markdown.render(card_blocks(merge)).rstrip()]
        if not opening:
            rows = _measured(audit_opened(adapter))
        rows += [("reference adapter", f"sha256 {source}")] if source else []
        evaluated = _evaluated(folder, sha256, evaluation)
        rows += [] if evaluated is None else _evaluation(*evaluated)
        runtimes = compression.runtimes if compression else _verdicts(adapter, folder)
        blocks = _loading(adapter, runtimes)
        if rows:
            blocks = [Heading("Evaluation" if evaluated else "Size"), Facts(rows), *blocks]
        front = _front_matter(adapter, evaluated, derived=bool(opening))
    parts = [*opening, markdown.render(blocks).rstrip()]
    if (compression or distillation) and text_of(read_card(folder)).strip():
        parts.append(carry.COPIED_CARD)
    return Card("\n\n".join(parts), front)


def _front_matter(
    adapter: Adapter, evaluated: tuple[Evaluation, EvaluatedAdapter] | None, *, derived: bool
) -> FrontMatter:
    """Return the metadata for the hub. derived: the rest of the card describes another adapter."""
    config = adapter.config
    base = config.base_model if config else None
    task, _ = TASKS.get(config.task_type or "", OTHER_TASK) if config else OTHER_TASK
    fields: dict[str, Any] = {
        "base_model": base if base and _PLAIN.fullmatch(base) else None,
        "base_model_relation": "adapter",
        "library_name": {"mlx": "mlx", "diffusers": "diffusers"}.get(adapter.format, "peft"),
        "tags": ["lora"],
    }
    results = () if evaluated is None else tuple(_results(*evaluated, task))
    return FrontMatter({key: value for key, value in fields.items() if value}, results, derived)


def _results(report: Evaluation, row: EvaluatedAdapter, task: str) -> Iterator[dict[str, Any]]:
    """Yield the accuracy, and the difference from the reference with its bound, as keywords of EvalResult."""
    role = tested_by(report).role
    if tested_by(report).compares == "agreement":  # no answers, no accuracy
        return
    about: dict[str, Any] = {
        "task_type": task,
        "dataset_type": report.task,
        "dataset_name": report.task,
        "dataset_split": {"confirm": "test"}.get(role or "", role),
    }
    facts = {OURS: f"gradience {report.run.gradience_version}", "examples": row.n}
    if row.accuracy is not None:
        yield {
            **about,
            "metric_type": "accuracy",
            "metric_value": round(row.accuracy, 6),
            "metric_args": facts,
        }
    nll = row.likelihood is not None
    delta = row.likelihood.delta if row.likelihood else row.pairs.delta if row.pairs else None
    if delta is not None and row.bounds is not None:
        bound = -row.bounds.low if nll else row.bounds.low
        test = {"confidence": 0.95, "one_sided": True, "bound": round(bound, 6), "grade": row.grade}
        yield {
            **about,
            "metric_type": "nll_per_token_difference" if nll else "accuracy_difference",
            "metric_name": "Difference from the reference adapter",
            "metric_value": round(delta, 6),
            "metric_args": {**facts, **test},
        }


def _verdicts(adapter: Adapter, folder: Path) -> tuple[RuntimeVerdict, ...]:
    config = adapter.config if adapter.loads_in_peft else None
    return verdicts(adapter, architecture_of(config, folder)) if config else ()


def _of_these_weights(kind: type[Written], path: Path, sha256: str) -> Written | None:
    """Return the report at `path`, if there is one and it is about these weights."""
    with suppress(InputError):
        report = kind.read(path)
        return report if report.output_sha256 == sha256 else None
    return None


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation.json or a shrink.json. Raises InputError."""
    try:
        return ShrinkReport.read(path)
    except InputError as error:
        if error.code != "artifact-version":
            raise
    return EvaluationReport.read(path)


def _evaluated(
    folder: Path, sha256: str, given: Evaluation | None
) -> tuple[Evaluation, EvaluatedAdapter] | None:
    config = sha256_file(folder / CONFIG) if (folder / CONFIG).is_file() else None
    for report in [given] if given is not None else _beside(folder):
        for row in rows_of(report):
            # Another strength is in the config only: the weights are the same.
            if row.sha256 == sha256 and row.config_sha256 in (None, config):
                return report, row
    if given is not None:
        raise InputError(
            f"{folder}: the evaluation does not cover these weights (sha256 {sha256[:12]}…)",
            code="other-adapter",
            hint=f"evaluate this adapter first: gradience evaluate ./reference {folder} --data rows.jsonl -o evaluated",
        )
    return None


def _beside(folder: Path) -> Iterator[Evaluation]:
    for place in (folder, folder.resolve().parent):
        for name in BESIDE:
            with suppress(InputError):
                yield read_evaluation(place / name)


def rows_of(report: Evaluation) -> tuple[EvaluatedAdapter, ...]:
    """Return every adapter that was evaluated."""
    if isinstance(report, EvaluationReport):
        return report.adapters
    return (
        report.reference,
        *(candidate.result for candidate in report.candidates if candidate.result is not None),
    )


# ---------------------------------------------------------------- what it says


def _measured(audit: AuditReport) -> Rows:
    ranks, size_now = number_range(layer.r for layer in audit.layers), sum(row.bytes for row in audit.layers)
    rows: Rows = [
        ("LoRA rank", f"{ranks} in {count(audit.n_layers)} modules"),
        ("LoRA parameters", f"{count(audit.total_lora_params)}, {size(size_now)}"),
    ]
    if audit.energy_rank_90_p50 is not None:
        energy = f"90 % of the update's energy is in {trimmed(audit.energy_rank_90_p50)} directions (median module)"
        rows.append(("energy", energy))
    return rows


def _evaluation(report: Evaluation, row: EvaluatedAdapter) -> Rows:
    task, base = Span(report.task, "name"), Span(report.base, "name")
    rows: Rows = [(EVALUATED, (f"{count(row.n or 0)} examples of ", task, ", base ", base))]
    if row.correct is not None and row.n:
        rows.append(("correct", f"{count(row.correct)} / {count(row.n)} ({100 * row.correct / row.n:.1f} %)"))
    if row.pairs is not None:
        rows.append(("Δ from the reference adapter", f"{points(row.pairs.delta)} points{_bound(row)}"))
    if row.likelihood is not None and row.likelihood.delta is not None:
        delta = f"{signed(row.likelihood.delta)} nats per token{_bound(row)}"
        rows.append(("ΔNLL from the reference adapter", delta))
    if row.grade is not None:  # each grade of an evaluation has its reason
        rows.append(("grade", f"{row.grade}: {row.reason or GRADES[row.grade][1]}"))
        guards = report.guards if isinstance(report, ShrinkReport) else ()
        on_guards = [(guard.name, guard.row(row.name)) for guard in guards]
        rows += [(f"guard {name}", f"{on.grade}: {on.reason}") for name, on in on_guards if on is not None]
        rows += [("changed after answers", change) for change in tested_by(report).changes]
    return rows


def _bound(row: EvaluatedAdapter) -> str:
    """Return the bound that the grade depends on, in brackets; empty if there is none."""
    bound = bound_cell(row)
    return f" (one-sided 95 % bound {bound})" if bound else ""


def _labels(adapter: Adapter) -> str:
    """Return the number of labels of the head in the file, or a placeholder."""
    heads = [entry.shape[0] for name, entry in adapter.entries() if _HEAD.search(name)]
    return str(heads[0]) if heads else "NUM_LABELS"


def _loading(adapter: Adapter, runtimes: Sequence[RuntimeVerdict]) -> list[Block]:
    """Return how to load it with PEFT, with vLLM if such a file was run, and the runtimes that failed.

    Empty for another format: the hub shows how to load it, by the card's library_name.
    """
    if not adapter.loads_in_peft:
        return []
    config = adapter.config
    task, named = (config.task_type, config.base_model) if config else (None, None)
    base = named if named and _PLAIN.fullmatch(named) else "BASE_MODEL"
    _, loader = TASKS.get(task or "", OTHER_TASK)
    labels = f", num_labels={_labels(adapter)}" if task in ("SEQ_CLS", "TOKEN_CLS") else ""
    lines = [
        f"from peft import {loader}",
        "",
        f'model = {loader}.from_pretrained("path/to/this/folder"{labels})',
    ]
    blocks: list[Block] = [Heading("How to load it"), Code(lines, "python")]
    step = max_lora_rank_step(max((pair.rank for pair in adapter.pairs), default=0))
    vllm = next((row.verdict for row in runtimes if row.runtime == "vLLM"), "not run")
    if task == "CAUSAL_LM" and step is not None and vllm == "loads":
        serve = f"vllm serve {base} --enable-lora --max-lora-rank {step} \\"
        blocks.append(Code([serve, "  --lora-modules my_adapter=path/to/this/folder"], "bash"))
    failed = [row for row in runtimes if row.run and row.verdict != "loads"]
    notes = [replace(note, mark="item") for note in runtime_notes(failed)]
    return [*blocks, Notes(notes)] if notes else blocks
