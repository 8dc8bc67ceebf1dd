"""`calibrate_adapter`: what `gradience calibrate` does: read and check, load the base, measure in two passes, write."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_opened
from gradience.calibrate.settings import CalibrateSettings
from gradience.digests import sha256_json
from gradience.errors import InputError, UsageError, require_installed
from gradience.evaluate.adapters import AdapterInput, model_of
from gradience.evaluate.inputs import TEXT_TOKENS
from gradience.files.shared_names import path_text
from gradience.files.whole import already_exists
from gradience.models.chat import chat_template
from gradience.models.locate import locate
from gradience.models.settings import ModelSettings
from gradience.models.tokenizers import check_vocabulary, tokenizer_notes, with_tokenizer
from gradience.plan.compression import curve, with_calibration
from gradience.plan.modules import modules_of
from gradience.reports.base.prompted import Kind
from gradience.reports.calibration import Calibration, CalibrationForecast
from gradience.settings import public, required_output
from gradience.tasks.chat import rendered_turn
from gradience.tasks.jsonl import choice_of, response_of
from gradience.tasks.rows import Row, local
from gradience.tasks.rows import kind_of as kind_of_row

LIBRARIES = ("torch", "transformers", "peft")
KINDS: Mapping[str, Kind] = {
    "CAUSAL_LM": "causal_lm",
    "SEQ_CLS": "sequence_classification",
}
"""task_type of an adapter -> the kind of its model."""


@dataclass(frozen=True, slots=True)
class CalibrateInputs:
    """Everything that can be known before the base is loaded."""

    request: CalibrateSettings
    adapter: Adapter
    """Open, in PEFT's format."""
    kind: Kind
    model: ModelSettings
    labels: int | None
    rows: CalibrationRows
    notes: tuple[str, ...] = ()
    """Remarks to read before anything is run."""

    @property
    def to_sample(self) -> int:
        """Number of rows that get a sampled completion."""
        if self.kind == "sequence_classification":
            return 0
        return sum(row.more is None for row in self.rows.all)


def read_inputs(
    request: CalibrateSettings, opened: Adapter, teacher: AdapterInput | None = None
) -> CalibrateInputs:
    """Read the rows and check the open adapter of the request. The tokenizer is loaded, the base is not.

    teacher: an adapter of the same base, whose tokenizer is used if the request's own has none.

    Raises InputError (`no-config`, `adapter-misfit`, `calibration-rows` …), UsageError (`wrong-model`, `no-base`,
    `too-few-rows`).
    """
    require_installed(*LIBRARIES, extra="hf")
    path, prompts = Path(request.adapter), Path(request.prompts)
    adapter = AdapterInput.of(path.name, path, opened)
    adapters = [adapter] if teacher is None else [adapter, teacher]
    kind = _kind(request, adapter.fields.get("task_type"))
    labels = _labels(adapter) if kind == "sequence_classification" else None
    model = model_of(request, adapter, "causal_lm" if labels is None else "seqcls")
    from transformers import AutoConfig

    from gradience.evaluate.checks import check_modules
    from gradience.models.load import from_folder, load_tokenizer

    folders = {path_text(each.given): each.folder for each in adapters}
    model = with_tokenizer(model, request.tokenizer, list(folders.values()))
    tokenizer = load_tokenizer(model)
    shape = from_folder(AutoConfig, model.name, locate(model, ("config.json",)).folder)
    check_vocabulary(model, tokenizer, shape, {each.given: each.tokens for each in adapters})
    check_modules(model.name, shape, labels, adapters)
    notes = tuple(tokenizer_notes(model, tokenizer, folders))
    if request.note is not None:
        for note in notes:
            request.note(note)
    rows = read_rows(prompts, kind, tokenizer, request.limit, request.left_out)
    return CalibrateInputs(request, opened, kind, model, labels, rows, notes)


def _kind(request: CalibrateSettings, task_type: object) -> Kind:
    """Return the kind of model that the adapter names, or if it names none, the kind that the rows fit."""
    rows = kind_of(Path(request.prompts))
    if task_type is None:
        return rows
    kind = KINDS.get(str(task_type))
    if kind is None:
        raise UsageError(
            f"{request.adapter}: its task_type is {task_type}",
            code="wrong-model",
            hint="calibrate adapters of causal language models and of sequence classifiers",
        )
    classifies = kind == "sequence_classification"
    if classifies != (rows == "sequence_classification"):
        needed = "`text`" if classifies else "`prompt` or `messages`"
        raise UsageError(
            f"{request.prompts}: its rows do not fit {request.adapter}, whose task_type is {task_type}",
            code="wrong-model",
            hint=f"give each row {needed}",
        )
    return kind


def _labels(adapter: AdapterInput) -> int:
    """Return the number of labels of an adapter's head: its smallest matrix has one row per label."""
    labels = min(adapter.labels, default=0)
    if labels < 2:
        contents = "a head with one output, which has no labels" if labels else "no classification head"
        raise InputError(
            f"{adapter.given}: contains {contents}",
            code="no-head",
            hint='calibrate a classifier that was trained with task_type="SEQ_CLS" and two labels or more',
        )
    return labels


# ---------------------------------------------------------------- rows
#
# A language model takes rows of `prompt`, with a `completion`, an `answer` or `choices` if there are any, or of
# `messages`; a classifier takes rows of `text`, with or without a `text_pair`. Gold labels are not read. What follows a
# prompt is read as the tasks read it, so that the tokens scored here are those of an evaluation.


FEWEST = 4
"""Rows: two that select, and two that predict, so that their spread is known."""


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """One row. text: the prompt, or what is to be labeled.   more: the completion, or the second text; None: none."""

    id: str
    """Digest of the row's content. It determines the row's half and its random directions."""
    text: str
    more: str | None


def prompt_id(text: str, second: str | None = None) -> str:
    """Digest of the prompt, without the spaces around it: equal for a prompt and for a row that is tested.

    second: of a pair of texts to label.
    """
    return sha256_json([text.strip(), second])[:16]


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """The rows of a file in the order of their identities, so that the order in the file decides nothing."""

    all: tuple[CalibrationRow, ...]
    duplicates: int
    left_out: int = 0

    @property
    def selects(self) -> list[bool]:
        """For each row whether it is of the half that selects; every other one."""
        return [place % 2 == 0 for place in range(len(self.all))]

    def prompt_ids(self, kind: Kind) -> tuple[str, ...]:
        """Return an id of each row's prompt, whatever its completion is."""
        return tuple(id_of_prompt(row, kind) for row in self.all)


def id_of_prompt(row: CalibrationRow, kind: Kind) -> str:
    """Return the id of a row's prompt. For classifiers, it covers both texts of a pair."""
    return prompt_id(row.text, row.more if kind == "sequence_classification" else None)


def kind_of(file: Path) -> Kind:
    """Return the kind of model that the first row of `file` fits. Raises InputError (`calibration-rows`)."""
    first = next(local(file).read(), None)
    if first is not None and (first.has("prompt") or first.has("messages")):
        return "causal_lm"
    if first is not None and first.has("text"):
        return "sequence_classification"
    problem = (
        "has no rows"
        if first is None
        else (f"no prompt, messages or text column (columns: {', '.join(sorted(first.values)[:8])})")
    )
    raise InputError(
        f"{file}: {problem}",
        code="calibration-rows",
        hint="give each row `prompt` (with or without `completion`), `messages`, or for a classifier `text`",
    )


def read_rows(
    file: Path,
    kind: Kind,
    tokenizer: Any,
    limit: int | None = None,
    left_out: Collection[str] = (),
) -> CalibrationRows:
    """Read the first `limit` rows of `file`, without duplicates. tokenizer: renders conversations as prompts.

    left_out: ids of prompts to skip.

    Raises InputError (`calibration-rows`, or `task-…` as for rows of tasks), UsageError (`too-few-rows`).
    """
    rows: dict[str, CalibrationRow] = {}
    count = 0
    with ExitStack() as stack:
        for count, row in enumerate(_read(file, kind, tokenizer, stack), start=1):
            rows.setdefault(row.id, row)
            if count == limit:
                break
    kept = sorted(key for key, row in rows.items() if id_of_prompt(row, kind) not in left_out)
    if len(kept) < FEWEST:
        raise UsageError(
            f"{file}: {len(kept)} different rows{' that are not tested' if left_out else ''}, but at least {FEWEST}"
            " are needed",
            code="too-few-rows",
            hint="give a few hundred prompts like those that the adapter will see",
        )
    return CalibrationRows(tuple(rows[key] for key in kept), count - len(rows), len(rows) - len(kept))


def _read(file: Path, kind: Kind, tokenizer: Any, stack: ExitStack) -> Iterator[CalibrationRow]:
    template = None
    for row in local(file).read():
        if kind == "sequence_classification":
            text, more = row.text("text"), row.text("text_pair") if row.has("text_pair") else None
        elif row.has("messages"):
            template = template or stack.enter_context(chat_template(tokenizer))
            text, more = rendered_turn(row, template)
        else:
            text, more = row.text("prompt"), _completion(row)
        yield CalibrationRow(sha256_json([text, more])[:16], text, more)


def _completion(row: Row) -> str | None:
    if kind_of_row(row) == "choices":
        return choice_of(row).response
    return response_of(row) if row.has("completion") or row.has("answer") else None


# ---------------------------------------------------------------- the verb


@public(CalibrateSettings)
def calibrate_adapter(settings: CalibrateSettings) -> Calibration | CalibrationForecast:
    """Measure on prompts how each component of an adapter changes the model's output, and write it to `output`.

    >>> calibration = calibrate_adapter(
    ...     "my_adapter", "measured.safetensors", prompts="rows.jsonl", base_model="embedded:minilm"
    ... )
    >>> len(calibration.modules), calibration.report.selection_rows  # a few hundred rows are better
    (16, 4)
    >>> compress_adapter("my_adapter", calibration=calibration, reduction=0.5, dry_run=True).prediction.rows
    4

    A dry run returns the cost estimate. Keywords, named like the flags of `gradience calibrate`:

    Raises InputError if adapter, rows or base cannot be used, UsageError for contradictory options,
    MissingExtra, OutputError for disk and memory errors.
    """
    output = None if settings.dry_run else required_output(settings.output)
    if output is not None and output.exists() and not settings.force:
        raise already_exists(output)
    with open_adapter(Path(settings.adapter), tokenizer=settings.tokenizer != "base") as opened:
        inputs = read_inputs(settings, opened)
        if output is None:
            return forecast_calibration(inputs)
        calibrate(inputs, output)
    return Calibration.read(output)


def calibrate(inputs: CalibrateInputs, output: Path) -> None:
    """Calibrate on what was read, and write the file."""
    from gradience.calibrate.measure import measured
    from gradience.evaluate.engines.base import memory_errors
    from gradience.evaluate.engines.transformers.engine import memory

    with memory_errors(batches=True), memory():
        calibration = measured(inputs)
    facts, audited = calibration.report, audit_opened(inputs.adapter)
    if not facts.routing:
        sizes = curve(with_calibration(audited, modules_of(audited), calibration), facts)
        calibration = replace(calibration, report=facts.model_copy(update={"sizes": sizes}))
    calibration.write(output)


def needs_of(ranks: Iterable[int], rows: int, tokens: int) -> tuple[int, int]:
    """Return the needs of modules of these ranks for `rows` rows and at most `tokens` tokens in a batch (with padding).

    In bytes: what is held from the first batch to the last, and what one batch adds while it is computed (h and t of
    every module). J (rows x r x r) of a module is never formed: the components are fixed before the second pass, which
    keeps only their effects (rows x r, for two bases).

    >>> needs_of([64] * 224, rows=256, tokens=8 * 512)  # 7B, seven projections in each of 32 layers
    (117440512, 234881024)
    """
    held = batch = 0
    for rank in ranks:
        moments, maps, effects = 2 * rank * rank, 2 * rank * rank, 2 * rows * rank
        # In float64: moments, the maps of two bases, effects; the maps once more in float32, for the device.
        held += 8 * (moments + 2 * maps + effects) + 4 * 2 * maps
        # h stays until t arrives; both are brought into rows, in float32, one module at a time.
        batch += 4 * tokens * rank
    return held, batch


def forecast_calibration(inputs: CalibrateInputs) -> CalibrationForecast:
    """Tokenize the rows and add up what their calibration needs. The base's weights are counted by its config.json."""
    import transformers

    from gradience.calibrate.measure import encode_pairs, encode_texts
    from gradience.evaluate.checks import process_bytes, weights_bytes_of
    from gradience.models import load

    request, model, tokenizer = inputs.request, inputs.model, load.load_tokenizer(inputs.model)
    if inputs.kind == "sequence_classification":
        rows = encode_texts(tokenizer, inputs.rows.all, request.max_length or TEXT_TOKENS)
        factory: Any = transformers.AutoModelForSequenceClassification
    else:
        rows = encode_pairs(tokenizer, inputs.rows.all, request.max_length, request.completion_tokens)
        factory = transformers.AutoModelForCausalLM
    shape = load.from_folder(transformers.AutoConfig, model.name, locate(model, ("config.json",)).folder)
    dtype = load.dtype_of(model, shape, request.device)
    base = load.skeleton(factory, shape, labels=inputs.labels, dtype=dtype)
    longest = max(len(row.ids) + (request.completion_tokens if not row.scored else 0) for row in rows)
    pairs = inputs.adapter.pairs
    held, batch = needs_of((pair.rank for pair in pairs), len(rows), longest * request.batch_size)
    return CalibrationForecast(
        adapter_path=path_text(request.adapter),
        base=path_text(model.name),
        kind=inputs.kind,
        rows=len(rows),
        duplicates=inputs.rows.duplicates,
        selection_rows=sum(inputs.rows.selects),
        sampled_completions=inputs.to_sample,
        longest=longest,
        batch_size=request.batch_size,
        modules=len(pairs),
        process_bytes=process_bytes(request.device),
        weights_bytes=weights_bytes_of(base, packed=model.quantization is not None),
        held_bytes=held,
        batch_bytes=batch,
    )
