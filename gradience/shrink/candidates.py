"""Candidates: smaller adapters, each known by a size. A new kind is an object like `TRUNCATED` and a line in `KINDS`:
it chooses ranks otherwise (from a calibration), or starts from another candidate (and distills it)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.calibrate.settings import CalibrateSettings, DistillSettings
from gradience.calibrate.verb import CalibrateInputs, calibrate, read_inputs
from gradience.compress.adapter import write_compressed
from gradience.compress.layout import lay_out
from gradience.compress.settings import WriteSettings, WritingSettings
from gradience.digests import sha256_file, sha256_json
from gradience.distill.verb import DistillInputs, distill, read_distill_inputs
from gradience.errors import InputError, UsageError
from gradience.files.card import CardOf
from gradience.files.whole import write_whole
from gradience.plan.compression import ToSizeOfRank, plan_compression
from gradience.plan.criteria import Criterion, ToRank
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.audit import AuditReport
from gradience.reports.calibration import Calibration
from gradience.reports.compression import CompressionPlan
from gradience.reports.shrink import PlannedCandidate
from gradience.words import listed


@dataclass(frozen=True, slots=True)
class CandidateSource:
    """Inputs of the candidates."""

    adapter: Adapter
    """Open, in PEFT's format."""
    audit: AuditReport
    base_model: Path | None = None
    """A folder with the base's weights, which a DoRA needs."""
    calibration: Calibration | None = None
    """Used for all candidates, if given."""
    distillation: DistillSettings | None = None
    """Settings for distilling the smallest candidate; the student is the adapter itself until that candidate exists."""
    card: CardOf | None = None
    """Makes the model cards of the candidates."""

    @property
    def rank(self) -> int:
        """Largest rank among the modules."""
        return max((layer.r for layer in self.audit.layers), default=0)


class CandidateKind(Protocol):
    """One way of making a smaller adapter."""

    @property
    def name(self) -> str:
        """Name in the plan and in the result."""

    def plan(self, source: CandidateSource, rank: int) -> CompressionPlan:
        """Return the ranks of a candidate and their cost, from the audit. Raises if it cannot be made."""

    def make(self, source: CandidateSource, rank: int, folder: Path) -> None:
        """Write a candidate to `folder`, as PEFT would, replacing it. The same inputs give the same weights."""


@dataclass(frozen=True, slots=True)
class TruncatedKind:
    """Fewer directions of each module, training-free: the leading ones, or those that a calibration chooses."""

    name: str = "truncated"
    criterion: Callable[[int], Criterion] = ToRank
    strength: float | None = None
    """Factor for the update."""

    def plan(self, source: CandidateSource, rank: int) -> CompressionPlan:
        plan = self._ranks(source, rank)
        if plan.new_params < plan.old_params:
            lay_out(source.adapter, plan, WriteSettings(base_model=source.base_model), source.calibration)
        return plan

    def make(self, source: CandidateSource, rank: int, folder: Path) -> None:
        write_compressed(
            source.adapter,
            self._ranks(source, rank),
            folder,
            WritingSettings(base_model=source.base_model, force=True, card=source.card),
            calibration=source.calibration,
            page=True,
        )

    def _ranks(self, source: CandidateSource, rank: int) -> CompressionPlan:
        return plan_compression(
            source.audit,
            self.criterion(rank),
            path=source.adapter.location.path,
            calibration=source.calibration,
            strength=self.strength,
        )


@dataclass(frozen=True, slots=True)
class Distilled:
    """The candidate of this size, trained briefly on prompts to match the outputs of the reference adapter."""

    name: str = "distilled"

    def plan(self, source: CandidateSource, rank: int) -> CompressionPlan:
        return cut_of(source).plan(source, rank).model_copy(update={"prediction": None})

    def make(self, source: CandidateSource, rank: int, folder: Path) -> None:
        assert source.distillation is not None
        cut = cut_of(source)
        student = folder.with_name(candidate_name(cut, rank))
        cut.make(source, rank, student)
        request = replace(source.distillation, adapter=student, force=True)
        with open_adapter(student) as opened:
            inputs = read_distill_inputs(request, opened, source.adapter)
            made_once(
                lambda: distill(inputs, folder),
                (folder / WEIGHTS, folder / CONFIG),
                folder.with_suffix(".sha256"),
                _key(inputs),
            )


def _key(inputs: DistillInputs) -> str:
    """Return a digest of everything that a distilled adapter depends on."""
    request, student = inputs.request, inputs.student
    teacher = [inputs.teacher_sha256, sha256_file(inputs.teacher.folder / CONFIG)]
    return sha256_json([_decides(student), inputs.student_sha256, teacher, request.steps, request.lr])


def _decides(inputs: CalibrateInputs) -> dict[str, Any]:
    """Return everything that a run over prompts depends on, besides the adapter's weights."""
    from gradience.evaluate.engines.transformers.engine import TransformersEngine
    from gradience.models.load import fingerprint_of

    request = asdict(replace(inputs.request, progress=None, note=None))
    for name in (
        "adapter", "prompts", "left_out", "base_model", "output", "dry_run", "progress", "note", "command"
    ):  # fmt: skip
        del request[name]
    return {
        "config": sha256_file(inputs.adapter.folder / CONFIG),
        "prompts": [row.id for row in inputs.rows.all],
        "base": fingerprint_of(inputs.model),
        "numerics": TransformersEngine.numerics(inputs.request.device),
        "settings": request,
    }


def calibration_on(request: CalibrateSettings, adapter: Adapter, file: Path) -> Calibration:
    """Return the calibration of an open adapter in `file`, which is made unless it is up to date.

    Raises what `calibrate_adapter` raises.
    """
    inputs = read_inputs(request, adapter)
    key = sha256_json([_decides(inputs), adapter.sha256()])
    made_once(lambda: calibrate(inputs, file), (file,), file.with_suffix(".sha256"), key)
    return Calibration.read(file)


def made_once(make: Callable[[], object], files: Sequence[Path], mark: Path, key: str) -> None:
    """Make `files`, unless they are those made before an interruption from the same inputs.

    mark: file that keeps the digests of the inputs (`key`) and of `files`.
    """

    def state() -> bytes:
        return " ".join([key, *(sha256_file(file) if file.is_file() else "-" for file in files)]).encode()

    if not mark.is_file() or read_file(mark, MAX_SETTINGS_BYTES) != state():
        make()
        write_whole(mark, [state()])


TRUNCATED, CALIBRATED, DISTILLED = TruncatedKind(), TruncatedKind("calibrated", ToSizeOfRank), Distilled()
KINDS: Mapping[str, CandidateKind] = {kind.name: kind for kind in (TRUNCATED, CALIBRATED, DISTILLED)}


def cut_of(source: CandidateSource) -> CandidateKind:
    """Return the kind of all candidates except a distilled one."""
    return TRUNCATED if source.calibration is None else CALIBRATED


def candidate_name(kind: CandidateKind, rank: int) -> str:
    """Return the name of a candidate, also used for its folder and its records."""
    return f"rank{rank}" if kind is TRUNCATED else f"{kind.name}{rank}"


def halvings(rank: int) -> tuple[int, ...]:
    """Return a rank and its halvings down to 1.

    >>> halvings(24)
    (24, 12, 6, 3, 1)
    """
    return tuple(rank >> step for step in range(rank.bit_length()))


def suggested(source: CandidateSource) -> int | None:
    """Return the largest rank to test by default; None if the audit suggests none.

    With a calibration: the largest power of two below the adapter's rank. Otherwise: the audit's p90 suggestion.
    """
    if source.calibration is not None:
        return 2 ** ((source.rank - 1).bit_length() - 1) if source.rank > 1 else 1
    return None if source.audit.suggestions is None else source.audit.suggestions.p90.rank


def plan_candidates(
    source: CandidateSource,
    given: Iterable[int] | None,
    kind: CandidateKind | None = None,
) -> tuple[tuple[PlannedCandidate, ...], tuple[str, ...]]:
    """Return the candidates from the largest down, and notes on ranks that were left out.

    The distilled candidate is tested just before the smallest truncated one, which has the same size. After it, it
    would be tested only if truncation suffices.

    given: ranks in place of the halvings of the rank that is `suggested`. Raises UsageError (`bad-rank`,
    `nothing-smaller`), InputError (`no-suggestion`), and what planning a compression raises.
    """
    kind = kind or cut_of(source)
    if given is None and suggested(source) is None:
        raise InputError(
            f"{source.adapter.location.path}: the audit suggests no rank",
            code="no-suggestion",
            hint="give --ranks, such as 8,4,2,1; `gradience audit` says why",
        )
    ranks = sorted({*(halvings(suggested(source) or 0) if given is None else given)}, reverse=True)
    candidates: list[PlannedCandidate] = []
    left_out: list[int] = []
    smallest = None
    for rank in ranks:
        plan = kind.plan(source, rank)
        if plan.new_params >= (plan.old_params if smallest is None else smallest):
            left_out.append(rank)
            continue
        smallest = plan.new_params
        candidates.append(_planned(kind, rank, plan))
    if not candidates:
        raise UsageError(
            f"{source.adapter.location.path}: no candidate is smaller (the adapter has rank {source.rank})",
            code="nothing-smaller",
            hint="give --ranks with smaller ranks",
        )
    if source.distillation is not None:
        rank = candidates[-1].rank
        candidates.insert(-1, _planned(DISTILLED, rank, DISTILLED.plan(source, rank)))
    if given is None or not left_out:
        return tuple(candidates), ()
    names = listed([f"rank {rank}" for rank in left_out], most=5)
    return tuple(candidates), (f"left out because not smaller: {names}",)


def _planned(kind: CandidateKind, rank: int, plan: CompressionPlan) -> PlannedCandidate:
    return PlannedCandidate(
        name=candidate_name(kind, rank),
        kind=kind.name,
        rank=rank,
        lora_params=plan.new_params,
        params_saved=plan.reduction,
        kept_energy=plan.kept_energy,
        predicted_kl_per_token=None if plan.prediction is None else plan.prediction.kl_per_token,
    )
