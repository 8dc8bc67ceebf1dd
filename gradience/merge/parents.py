"""The adapters that are merged: opened, and refused unless their updates add up on one base."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.config import PeftConfig
from gradience.adapters.formats import open_adapter, require_order
from gradience.blas import processors
from gradience.compress.encodings import require_config
from gradience.compress.forms import refuse_meaning
from gradience.compress.layout import refuse_adapter
from gradience.digests import sha256_file
from gradience.errors import InputError, UsageError
from gradience.merge.settings import MergeSettings
from gradience.settings import paths_of
from gradience.words import listed


class Parent(NamedTuple):
    """One adapter that is merged. name: of its folder, or its letter if two folders have one name."""

    name: str
    letter: str
    opened: Adapter
    config: PeftConfig
    weight: float
    sha256: str

    @property
    def path(self) -> Path:
        """Where it was read."""
        return self.opened.location.path

    @property
    def dora(self) -> bool:
        """True if its update is DoRA's."""
        return self.config.use_dora or bool(self.opened.magnitudes())


def _refuse_settings(settings: MergeSettings, parents: int, weights: Sequence[float]) -> None:
    calibrated, method = settings.max_kl_per_token is not None, settings.method
    if not 2 <= parents <= len(ascii_uppercase):
        raise UsageError(
            "a merge takes 2 to 26 adapters", code="one-parent", hint="gradience merge A B -o DIR"
        )
    if len(weights) != parents or not all(math.isfinite(weight) and weight for weight in weights):
        raise UsageError(
            f"--weights: not one number other than 0 for each of {parents} adapters",
            code="bad-weights",
            hint="such as --weights 1,0.5",
        )
    if settings.rank is not None and method == "linear":
        raise UsageError(
            "--method linear is the exact sum, which no --rank truncates",
            code="linear-rank",
            hint=f"truncate it: --method svd --rank {settings.rank}",
        )
    wrong = method != "svd" or settings.rank is not None
    if calibrated != bool(settings.calibration) or (calibrated and wrong):
        raise UsageError(
            "--max-kl-per-token and --calibration belong together, and to --method svd",
            code="max-kl",
            hint="give --method svd --max-kl-per-token X --calibration FILE, and no --rank",
        )
    if settings.search and not settings.data:
        raise UsageError(
            "--search needs the examples of each parent",
            code="no-data",
            hint="such as --data A=rows_a.jsonl --data B=rows_b.jsonl",
        )


def open_parents(settings: MergeSettings, stack: ExitStack) -> list[Parent]:
    """Open the adapters, and return them if they can be merged.

    Raises UsageError for settings that contradict each other (one-parent, bad-weights, linear-rank, max-kl, no-data,
    same-adapter); InputError if an adapter cannot be read or is not a plain LoRA or DoRA, or two do not belong to one
    base (other-base, other-config, shapes-differ).
    """
    paths = paths_of(settings.adapters)
    weights = settings.weights or [1.0] * len(paths)
    _refuse_settings(settings, len(paths), weights)
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = list(ascii_uppercase[: len(paths)])
    adapters = [stack.enter_context(open_adapter(path, allow_pickle=settings.allow_pickle)) for path in paths]
    with ThreadPoolExecutor(settings.workers or processors()) as pool:
        digests = list(pool.map(Adapter.sha256, adapters))
    configs = [require_config(opened) for opened in adapters]
    parents = [
        Parent(*fields)
        for fields in zip(names, ascii_uppercase, adapters, configs, weights, digests, strict=False)
    ]
    for parent in parents:
        _refuse(parent, settings)
    for first, other in combinations(parents, 2):
        if first.sha256 == other.sha256:
            raise UsageError(
                f"{first.path} and {other.path} hold the same weights",
                code="same-adapter",
                hint="a stronger adapter needs no merge; give different ones",
            )
    _refuse_together(parents)
    return parents


def _refuse(parent: Parent, settings: MergeSettings) -> None:
    """Raise InputError for an adapter whose update is not s·B·A (or DoRA's) on the base as it is."""
    opened, config = parent.opened, parent.config
    refuse_adapter(opened, config, None, dora=parent.dora, has_base=settings.base_model is not None)
    refuse_meaning(opened, "a merged adapter", dora=True)
    require_order(opened)
    for pair in opened.pairs:
        opened.scale_of(pair)
    unmerged = next((pair for pair in opened.pairs if pair.groups > 1 or pair.experts > 1), None)
    if unmerged:
        what = "a grouped convolution" if unmerged.groups > 1 else "a stack of experts"
        raise InputError(
            f"{parent.path}: cannot be merged: {unmerged.module} is {what}",
            code="not-in-format",
            hint="apply this adapter to its base instead",
        )


def _refuse_together(parents: Sequence[Parent]) -> None:
    """Raise InputError if two adapters do not belong together."""
    first = parents[0]
    for other in parents[1:]:
        _refuse_bases(first, other)
        a, b, tokens = first.config, other.config, "trainable_token_indices"
        for name, here, there in (
            ("task_type", a.task_type or b.task_type, b.task_type or a.task_type),
            (tokens, a.fields.get(tokens) or None, b.fields.get(tokens) or None),
        ):
            if here != there:
                raise InputError(
                    f"{first.path} and {other.path}: {name} is {here or 'empty'} in the first and {there or 'empty'}"
                    " in the second",
                    code="other-config",
                    hint="merge adapters of one task type, with the same trained tokens",
                )
    shapes: dict[str, tuple[Parent, str]] = {}
    for parent in parents:
        for pair in parent.opened.pairs:
            owner, known = shapes.setdefault(pair.module, (parent, _shape(pair)))
            if known != _shape(pair):
                raise InputError(
                    f"{pair.module} is {known} in {owner.path}, and {_shape(pair)} in {parent.path}",
                    code="shapes-differ",
                    hint="merge adapters of one base model",
                )


def _shape(pair: LoraPair) -> str:
    return f"{' x '.join(map(str, (pair.rows, *pair.a.entry.shape[1:])))} ({pair.kind})"


def _refuse_bases(first: Parent, other: Parent) -> None:
    """Raise InputError (other-base) for two bases with different names, unless both are folders with the same files."""
    bases = [parent.config.base_model for parent in (first, other)]
    revisions = {revision for parent in (first, other) if (revision := parent.config.fields.get("revision"))}
    folders = [Path(base) for base in bases if base and Path(base).is_dir()]
    same = bases[0] == bases[1] or None in bases
    if not same and len(folders) == 2:
        same = _digests(folders[0]) == _digests(folders[1])
    if same and len(revisions) < 2:
        return
    differ = (
        f"trained on different base models ({bases[0]}, {bases[1]})"
        if not same
        else f"trained on different revisions of {bases[0]} ({listed(sorted(revisions))})"
    )
    raise InputError(
        f"{first.path} and {other.path}: {differ}",
        code="other-base",
        hint="if both names mean the same weights, write one base_model_name_or_path (and revision) into both configs",
    )


def _digests(folder: Path) -> dict[str, str]:
    """Return the digest of each weights file of a base model."""
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
