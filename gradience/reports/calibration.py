"""A calibration file: the effect of each component of an adapter on the model's output, measured on prompts.

The header's metadata has one entry, `gradience`: the JSON of a `CalibrationReport`. Each
calibrated module `M` with rank r and k components, over n rows in the order of their identities, has the tensors

    M:moment_in, M:moment_out   (r, r) F64   E[hhᵀ] and E[ttᵀ] over the tokens of the selection rows
    M:p, M:q                    (r, k) F64   components by falling score: B·p·qᵀ·A
    M:values                    (k,)   F64   contribution of each to the weighted norm, in the order of the components
    M:lost                      (k+1,) F64   ‖B·(I − P)·A‖²/‖B·A‖² if the leading 0 … k components are kept
    M:effects                   (n, k) F32   ⟨J, p·qᵀ⟩ of each row: first-order change of −log p, signed
    M:svd_effects               (n, k) F32   the same for the components of the SVD, by falling singular value

and the rows have `rows:tokens` (n,) I64, the number of scored tokens, and `rows:selection` (n,) U8, 1 for selection
rows and 0 for rows that predict.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gradience.adapters.tensors import NewTensor, TensorFile, parts_of
from gradience.digests import sha256_json, sha256_parts
from gradience.errors import InputError, wrong_type
from gradience.files.artifact import Float12, Part, artifact_row
from gradience.files.whole import write_whole
from gradience.reports.base import blocks as doc
from gradience.reports.base.numbers import count, plural, sig
from gradience.reports.base.prediction import EARLIER, ROUTED
from gradience.reports.base.prompted import PromptForecast, PromptReport
from gradience.spectra import FloatArray

METADATA = "gradience"
FEWEST_ROWS = 2
"""Minimum number of selection rows, and of prediction rows: a spread needs two."""
LARGEST_EFFECT = 1e9
"""Maximum change of −log p of a row by one component, in nats."""
_DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "U8": "u1"}
"""Type in the file -> numpy's."""


@artifact_row
class CalibratedModule:
    """One module that the prompts activate."""

    name: str
    rank: int
    components: int
    """Number of components: fewer than the rank if directions of the factors are linearly dependent."""
    scale: Float12
    """s at the time of calibration; effects are proportional to it."""
    importance: Float12
    """Predicted KL per scored token of leaving out the module's whole update, in nats."""
    weighted_energy_rank_90: int
    """Fewest directions that hold 90 % of the gradient-weighted energy."""


@artifact_row
class ExcludedModule:
    """A module without calibration: it keeps its rank, and predictions exclude it."""

    name: str
    reason: str


class CurvePoint(Part):
    """Predictions at the parameters of one uniform rank."""

    rank: int
    params: int
    """Parameters of uniform SVD at this rank: the limit of the calibrated adapter beside it."""
    calibrated_kl_per_token: Float12
    svd_kl_per_token: Float12


class CalibrationReport(PromptReport):
    """Inputs and results of a calibration, by module. The metadata of the calibration file.

    >>> report = Calibration.read("calibration.safetensors").report
    >>> len(report.modules), report.excluded
    (16, ())
    """

    row_field: ClassVar[str] = "modules"
    repair: ClassVar[str] = "calibrate again with `gradience calibrate`"

    schema_: Literal["gradience.calibration/2"] = "gradience.calibration/2"
    prompt_ids: tuple[str, ...] = ()
    """Id of each row, in the order of the arrays: the first 16 hexadecimal digits of the sha256 of its
    prompt. Empty in older files."""
    selection_rows: int
    """Rows used to compute the moments, the components and their order; the other rows predict."""
    ridge: float
    routing: str = ""
    """Token routing of the base, such as `2 of 8 experts`; empty if each token passes through all experts, or
    there are none. A prediction assumes that no token changes its experts."""
    sizes: tuple[CurvePoint, ...] = ()
    """Predictions at the parameters of uniform ranks; empty if the base routes tokens to experts."""
    modules: tuple[CalibratedModule, ...]
    excluded: tuple[ExcludedModule, ...]

    @property
    def tokens_per_example(self) -> float:
        """Scored tokens of an average row that predicts; 1 for a classifier."""
        return self.scored_tokens / (self.rows - self.selection_rows)

    def per_example(self, kl_per_token: float) -> str:
        """Return the KL of an average example, for a screen."""
        return sig(kl_per_token * self.tokens_per_example)

    def screen(self, view: doc.View) -> doc.Document:
        """Return the data, the excluded modules, predictions by size, and modules by importance; on a brief screen the
        most important ones, and on any screen the next command."""
        predicting = self.rows - self.selection_rows
        split = f"{count(self.selection_rows)} to select components, {count(predicting)} to predict"
        facts: list[doc.Fact] = [
            ("base", doc.Span(self.base, "name")),
            ("prompts", (doc.Span(self.prompts, "name"), f": {split}")),
            *self.completions(),
        ]
        ordered = sorted(self.modules, key=lambda module: (-module.importance, module.name))
        differ = len({module.rank for module in ordered}) > 1
        table = doc.table_of(
            ordered[: SHOWN if view.brief else None],
            (doc.Column("module"), lambda module: doc.Span(module.name, "name")),
            (doc.Column("KL/example if removed", ">"), lambda module: self.per_example(module.importance)),
            (doc.Column("rank", ">", shown=differ), lambda module: str(module.rank)),
        )
        return [
            doc.Heading(("Calibration of ", doc.Span(self.adapter_path, "name")), level=1),
            doc.Paragraph(_answer(self)),
            doc.Facts(facts),
            doc.Notes(_notes(self)),
            *_size_blocks(self, view),
            doc.Heading("Importance of modules"),
            table,
            *doc.more(len(ordered) - len(table.rows), "more module", view.rest),
            doc.Paragraph(
                "KL/example if removed: predicted divergence in nats if the module's whole update is removed."
            ),
            *_next(self, view),
        ]


class CalibrationForecast(PromptForecast):
    """Requirements of a calibration; the base is not loaded."""

    schema_: Literal["gradience.calibration_forecast/2"] = "gradience.calibration_forecast/2"
    selection_rows: int
    modules: int
    batch_bytes: int
    """Memory of the modules' inputs and gradients for one batch, in addition to the base's own activations."""

    def blocks(self) -> doc.Document:
        """Return the screen of `gradience calibrate --dry-run`."""
        passes = count(self.rows + self.selection_rows)
        return self.document(
            "Calibration",
            f"{count(self.selection_rows)} to select components, {count(self.rows - self.selection_rows)} to predict",
            f"{passes} forward and {passes} backward passes of an example",
            {"measurements": self.held_bytes, "one batch": self.batch_bytes},
            "the base's activations and their gradients",
        )


class ModuleMoments(NamedTuple):
    """The arrays of one module; see the top of this file."""

    moment_in: FloatArray
    moment_out: FloatArray
    p: FloatArray
    q: FloatArray
    values: FloatArray
    lost: FloatArray
    effects: NDArray[np.float32]
    svd_effects: NDArray[np.float32]


_TENSORS = {name: "F32" if name.endswith("effects") else "F64" for name in ModuleMoments._fields}


@dataclass(frozen=True)
class Calibration:
    """A calibration in memory: the effect of each component of an adapter on the model's output.

    >>> calibration = Calibration.read("calibration.safetensors")
    >>> calibration.report.rows, len(calibration.modules)
    (64, 16)

    tokens: (n,) scored tokens of each row.   selection: (n,) true for selection rows; the others predict.
    path: the file that was read, for error messages.
    """

    report: CalibrationReport
    modules: Mapping[str, ModuleMoments]
    tokens: NDArray[np.int64]
    selection: NDArray[np.bool_]
    path: str = "the calibration"

    @cached_property
    def sha256(self) -> str:
        """Digest of the content: arrays and report without its paths and its `run`, which has times.

        Equal rows, weights, settings and seeds give the same digest on one machine.
        """
        facts = self.report.model_dump(mode="json", exclude={"adapter_path", "prompts", "run"})
        return sha256_parts([sha256_json(facts).encode(), *self._chunks({})])

    def _chunks(self, metadata: Mapping[str, str]) -> Iterator[bytes]:
        """Yield the bytes of a safetensors file with the arrays, in pieces."""
        arrays: dict[str, tuple[str, NDArray[Any]]] = {
            "rows:tokens": ("I64", self.tokens),
            "rows:selection": ("U8", self.selection),
        }
        for module, moments in self.modules.items():
            arrays |= {f"{module}:{name}": (kind, getattr(moments, name)) for name, kind in _TENSORS.items()}
        tensors = {
            name: NewTensor(kind, array.shape, _data_of(kind, array))
            for name, (kind, array) in arrays.items()
        }
        return parts_of(tensors, metadata)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read and check a calibration file.

        Raises InputError (`calibration-invalid`, `artifact-version`, and the errors of `TensorFile.open`).
        """
        path = Path(path)
        with TensorFile.open(path) as file:
            text = file.metadata.get(METADATA)
            if text is None:
                raise _invalid(path, f"no metadata called {METADATA!r}")
            report = CalibrationReport.parse(path, text.encode())
            modules = {
                row.name: ModuleMoments(
                    *(_array(file, f"{row.name}:{name}", _TENSORS[name]) for name in _TENSORS)
                )
                for row in report.modules
            }
            tokens = _array(file, "rows:tokens", "I64")
            selection = _array(file, "rows:selection", "U8").astype(np.bool_)
            calibration = cls(report, modules, tokens, selection, str(path))
        _check(path, calibration)
        return calibration

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, whole or not at all. Raises OutputError."""
        return write_whole(Path(path), self._chunks({METADATA: self.report.to_json(indent=None)}))


def calibration_argument(given: Calibration | str | os.PathLike[str] | None) -> Calibration | None:
    """Return a calibration given directly or by its path; None for None. Raises WrongType, and the errors of `read`."""
    if given is None or isinstance(given, Calibration):
        return given
    if not isinstance(given, str | os.PathLike):
        raise wrong_type("calibration", given, "a Calibration, or the path of one")
    return Calibration.read(given)


def _array(file: TensorFile, name: str, dtype: str) -> NDArray[Any]:
    entry = file.entries.get(name)
    if entry is None or entry.dtype.name != dtype:
        raise _invalid(file.path, f"no tensor {name} of type {dtype}")
    array: NDArray[Any] = np.frombuffer(file.read_bytes(name), _DTYPES[dtype]).reshape(entry.shape)
    return array


def _check(path: Path, calibration: Calibration) -> None:
    """Raise InputError if shapes or figures contradict each other, or cannot be results of `gradience calibrate`."""
    report, tokens, selects = calibration.report, calibration.tokens, calibration.selection
    rows = (report.rows,)
    if tokens.shape != rows or selects.shape != rows:
        raise _invalid(path, f"not {rows[0]} rows")
    if len(report.prompt_ids) not in (0, *rows):
        raise _invalid(path, f"{len(report.prompt_ids)} prompt ids, not {rows[0]}")
    if not report.modules:
        raise _invalid(path, "no modules")
    if min(selects.sum(), (~selects).sum()) < FEWEST_ROWS:
        raise _invalid(path, f"fewer than {FEWEST_ROWS} rows that select, or that predict")
    if tokens.min() < 1:
        raise _invalid(path, f"a row with {tokens.min()} scored tokens")
    if (report.selection_rows, report.scored_tokens) != (selects.sum(), tokens[~selects].sum()):
        raise _invalid(path, "its rows are not those that its report counts")
    names = Counter([row.name for row in report.modules] + [row.name for row in report.excluded])
    if twice := [name for name, number in names.items() if number > 1]:
        raise _invalid(path, f"the module {twice[0]} twice")
    for module in report.modules:
        _check_module(path, calibration, module)


def _check_module(path: Path, calibration: Calibration, module: CalibratedModule) -> None:
    moments, r, k = calibration.modules[module.name], module.rank, module.components
    n, predicts = calibration.report.rows, ~calibration.selection
    shapes = [(r, r), (r, r), (r, k), (r, k), (k,), (k + 1,), (n, k)]  # in the order of `_TENSORS`
    svd = moments.svd_effects.shape
    if [array.shape for array in moments[:-1]] != shapes or svd[:-1] != (n,) or not 1 <= k <= r >= svd[1]:
        raise _invalid(path, f"the tensors of {module.name} do not have the shapes in its row")
    if not all(np.isfinite(array).all() for array in moments):
        raise _invalid(path, f"NaN or infinity in the tensors of {module.name}")
    change = moments.effects[predicts].astype(np.float64).sum(axis=1)
    importance = float(np.square(change).sum() / 2 / calibration.tokens[predicts].sum())
    scores = np.square(moments.effects[~predicts].astype(np.float64)).mean(axis=0)
    if (
        not math.isclose(module.importance, importance, rel_tol=1e-6)
        or (np.diff(scores) > 1e-6 * scores[0]).any()
        or max(np.abs(moment).max() for moment in moments[-2:]) > LARGEST_EFFECT
        or min(moments.values.min(), moments.lost.min()) < 0
    ):
        raise _invalid(path, f"scores of {module.name} that no measurement gives")


def _data_of(kind: str, array: NDArray[Any]) -> Iterator[bytes]:
    yield np.ascontiguousarray(array, _DTYPES[kind]).tobytes()


def _invalid(path: Path, problem: str) -> InputError:
    hint = "give the file that `gradience calibrate` wrote, or " + CalibrationReport.repair
    return InputError(f"{path}: not a calibration: {problem}", code="calibration-invalid", hint=hint)


SHOWN = 5
"""Modules on the screen, unless all are requested."""


def _answer(report: CalibrationReport) -> str:
    """Return the predicted advantage over plain truncation at the largest size, if sizes are predicted."""
    modules = plural(len(report.modules), "module")
    if not report.sizes:
        return f"The importance of {modules} was measured on {plural(report.rows, 'prompt')}."
    largest = report.sizes[0]
    calibrated, svd = map(report.per_example, (largest.calibrated_kl_per_token, largest.svd_kl_per_token))
    return (
        f"With as many parameters as rank {largest.rank}, the components that this calibration chooses have a predicted"
        f" KL of {calibrated} per example. Plain truncation has {svd}."
    )


def _size_blocks(report: CalibrationReport, view: doc.View) -> list[doc.Block]:
    """Return the predicted KL of each size for both allocations of its parameters."""
    if not report.sizes:
        return []
    tokens, kl = report.tokens_per_example, report.per_example
    table = doc.table_of(
        report.sizes,
        (doc.Column("parameters", ">"), lambda point: count(point.params)),
        (doc.Column("same size as rank", ">", drop=2), lambda point: str(point.rank)),
        (doc.Column("KL/example", ">"), lambda point: kl(point.calibrated_kl_per_token)),
        (doc.Column("KL/example, truncation", ">", drop=1), lambda point: kl(point.svd_kl_per_token)),
    )
    average = "" if tokens == 1 else f" ({tokens:.1f} scored tokens on average)"
    legend = (
        f"KL/example: predicted divergence from the original outputs, in nats{average}, if gradience compress spreads"
        " the parameters over the modules (--max-params); equal ranks (--rank) change the output more. gradience"
        f" compress also shows the 95 % interval. {EARLIER} KL does not predict accuracy."
    )
    return [doc.Heading("Predicted change of the output"), table, doc.Paragraph(legend)]


def _next(report: CalibrationReport, view: doc.View) -> list[doc.Block]:
    """Return the next command, on a screen."""
    if not (report.sizes and view.is_screen):
        return []
    shrink = f"gradience shrink {view.path(0, 'ADAPTER')} --calibration {view.path(1, 'FILE')}"
    shrink += f" --base-model {view.path(2, 'DIR')}" if len(view.paths) > 2 else ""
    advice = "Test on rows other than these prompts."
    if report.kind == "causal_lm":  # outputs of a classifier are tested only against labels
        advice += " Without answers: --prompts instead of --data."
    return [*view.next_steps(f"{shrink} --data test_rows.jsonl"), doc.dim(advice)]


def _notes(report: CalibrationReport) -> list[doc.Note]:
    notes = []
    if report.routing:
        withheld = "gradience compress predicts only with --allow-routed"
        notes.append(doc.Note("warning", f"{ROUTED.format(report.routing)}: {withheld}"))
    notes += [doc.Note("info", note) for note in report.notes]
    for reason, number in Counter(module.reason for module in report.excluded).items():
        excluded = f"{plural(number, 'module')} excluded from every prediction: {reason}"
        notes.append(doc.Note("warning", excluded))
    notes += report.row_notes()
    if dependent := sum(module.components < module.rank for module in report.modules):
        factors = "linearly dependent factors: fewer components than the rank"
        notes.append(doc.Note("info", f"{plural(dependent, 'module')} with {factors}"))
    return notes
