"""Inputs of a calibration, read and checked before the base is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gradience.calibrate.rows import CalibrationRows, kind_of, read_rows
from gradience.calibrate.settings import CalibrateSettings
from gradience.errors import InputError, UsageError, require_installed
from gradience.evaluate.adapters import AdapterInput, adapter_input, model_of
from gradience.files.shared_names import path_text
from gradience.models.locate import locate
from gradience.models.settings import ModelSettings
from gradience.models.tokenizers import (
    check_vocabulary,
    tokenizer_notes,
    with_tokenizer,
)
from gradience.reports.base.prompted import Kind

TEXT_TOKENS = 512
"""Default token limit of a text to label: the number of positions of BERT and similar models."""
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
    folder: Path
    kind: Kind
    model: ModelSettings
    labels: int | None
    rows: CalibrationRows
    ranks: Mapping[str, int]
    """Module -> rank."""
    notes: tuple[str, ...] = ()
    """Remarks to read before anything is run."""

    @property
    def to_sample(self) -> int:
        """Number of rows that get a sampled completion."""
        if self.kind == "sequence_classification":
            return 0
        return sum(row.more is None for row in self.rows.all)


def read_inputs(request: CalibrateSettings, teacher: Path | None = None) -> CalibrateInputs:
    """Read adapter and rows. The tokenizer is loaded, the base is not.

    teacher: an adapter whose tokenizer is used if the request's own has none.

    Raises InputError (`no-config`, `calibration-rows` …), UsageError (`wrong-model`, `no-base`, `too-few-rows`).
    """
    require_installed(*LIBRARIES, extra="hf")
    path, prompts = Path(request.adapter), Path(request.prompts)
    adapter = adapter_input(path.name, path, tokenizer=request.tokenizer != "base")
    kind = _kind(request, adapter.fields.get("task_type"))
    labels = _labels(adapter) if kind == "sequence_classification" else None
    model = model_of(request, adapter, "causal_lm" if labels is None else "seqcls")
    from transformers import AutoConfig

    from gradience.models.load import from_folder, load_tokenizer

    folders = {
        path_text(path): adapter.folder,
        **({} if teacher is None else {path_text(teacher): teacher}),
    }
    model = with_tokenizer(model, request.tokenizer, list(folders.values()))
    tokenizer = load_tokenizer(model)
    shape = from_folder(AutoConfig, model.name, locate(model, ("config.json",)).folder)
    check_vocabulary(model, tokenizer, shape, {path: adapter.tokens})
    notes = tuple(tokenizer_notes(model, tokenizer, folders))
    if request.note is not None:
        for note in notes:
            request.note(note)
    rows = read_rows(prompts, kind, tokenizer, request.limit)
    return CalibrateInputs(request, adapter.folder, kind, model, labels, rows, adapter.modules, notes)


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
