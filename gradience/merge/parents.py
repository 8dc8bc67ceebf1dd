"""The adapters that are merged: opened, and refused unless their updates add up on one base."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.config import PeftConfig, initialization_of
from gradience.adapters.formats import open_adapter, require_order
from gradience.blas import processors
from gradience.compress.encodings import require_config
from gradience.compress.layout import refuse_adapter
from gradience.digests import sha256_file
from gradience.errors import InputError, UsageError
from gradience.merge.settings import SPARSE, MergeSettings
from gradience.words import listed

UNMERGEABLE = (
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "arrow_config",
    "alora_invocation_tokens",
    "layer_replication",
    "ensure_weight_tying",
)
"""Fields of PEFT's config with which s·B·A is not the whole update, or does not always apply."""


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


def weights_of(settings: MergeSettings) -> tuple[float, ...]:
    """Return the weight of each adapter.

    Raises UsageError (one-parent, bad-weights, no-density, bad-density, linear-rank, max-kl, same-adapter).
    """
    paths = [Path(os.fspath(path)) for path in settings.adapters]  # type: ignore[union-attr]
    weights = tuple(settings.weights or [1.0] * len(paths))
    method, density, calibrated = settings.method, settings.density, settings.max_kl_per_token is not None
    given = ", ".join(f"{weight:g}" for weight in weights)
    refusals = (
        (len(paths) < 2, "one-parent", "a merge needs two or more adapters", "gradience merge A B -o DIR"),
        (
            len(weights) != len(paths) or not all(math.isfinite(weight) and weight for weight in weights),
            "bad-weights",
            f"--weights {given}: not one number other than 0 for each of {len(paths)} adapters",
            "such as --weights 1,0.5",
        ),
        (
            density is not None and method not in SPARSE,
            "no-density",
            f"--density has no effect with --method {method}",
            f"leave it out, or choose one of {', '.join(SPARSE)}",
        ),
        (
            density is not None and not 0 < density <= 1,
            "bad-density",
            f"--density {density} is not in (0, 1]",
            "0.5",
        ),
        (
            settings.rank is not None and method == "linear",
            "linear-rank",
            "--method linear is the exact sum, which no --rank truncates",
            f"truncate it: --method svd --rank {settings.rank}",
        ),
        (
            calibrated != bool(settings.calibration)
            or (calibrated and (method != "svd" or settings.rank is not None)),
            "max-kl",
            "--max-kl-per-token and --calibration belong together, and to --method svd",
            "give --method svd --max-kl-per-token X --calibration FILE, and no --rank",
        ),
        (
            settings.search and not settings.data,
            "no-data",
            "--search needs the examples of each parent",
            "such as --data A=rows_a.jsonl --data B=rows_b.jsonl",
        ),
    )
    for wrong, code, problem, hint in refusals:
        if wrong:
            raise UsageError(problem, code=code, hint=hint)
    whole = [path.resolve() for path in paths]
    twice = next((path for place, path in enumerate(paths) if whole[place] in whole[:place]), None)
    if twice is not None:
        raise _same(twice, twice)
    return weights


def _same(first: Path, second: Path) -> UsageError:
    twice = f"{first} is given twice" if first == second else f"{first} and {second} hold the same weights"
    return UsageError(
        twice, code="same-adapter", hint="a stronger adapter needs no merge; give different ones"
    )


def open_parents(settings: MergeSettings, stack: ExitStack) -> list[Parent]:
    """Open the adapters, and return them if they can be merged.

    Raises what `weights_of` raises; InputError if one cannot be read or is not a plain LoRA or DoRA, or two do not
    belong to one base (other-base, other-task, other-parameters, shapes-differ).
    """
    weights = weights_of(settings)
    paths = [Path(path) for path in settings.adapters]  # type: ignore[union-attr]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = list(ascii_uppercase[: len(paths)])
    adapters = [stack.enter_context(open_adapter(path, allow_pickle=settings.allow_pickle)) for path in paths]
    with ThreadPoolExecutor(settings.workers or processors()) as pool:
        digests = list(pool.map(Adapter.sha256, adapters))
    parents: list[Parent] = []
    known = zip(paths, names, adapters, weights, digests, strict=True)
    for letter, (path, name, opened, weight, sha256) in zip(ascii_uppercase, known, strict=False):
        parent = Parent(name, letter, opened, require_config(opened), weight, sha256)
        _refuse(parent)
        same = next((other for other in parents if other.sha256 == parent.sha256), None)
        if same is not None:
            raise _same(same.path, path)
        parents.append(parent)
    _refuse_together(parents)
    return parents


def _refuse(parent: Parent) -> None:
    """Raise InputError for an adapter whose update is not s·B·A (or DoRA's) on the base as it is."""
    opened, config, path = parent.opened, parent.config, parent.path
    refuse_adapter(opened, config, None, dora=config.use_dora, has_base=True)
    require_order(opened)
    for pair in opened.pairs:
        opened.scale_of(pair)
    start = initialization_of(config.init)
    if start is None or not start.keeps_base:
        rank = 2 * max((pair.rank for pair in opened.pairs), default=1)
        raise InputError(
            f"{path}: init_lora_weights is {config.init[:60]!r}: PEFT changed the base weights, so s·B·A is not the "
            "update",
            code="base-changed",
            hint=f"write the update first: gradience compress {path} --initial-adapter INITIAL --rank {rank} -o NEW",
        )
    field = next((name for name in UNMERGEABLE if config.fields.get(name)), None)
    grouped = next((pair.module for pair in opened.pairs if pair.groups > 1), None)
    if field or grouped:
        why = f"{field} in its config" if field else f"{grouped} is a grouped convolution"
        raise InputError(
            f"{path}: cannot be merged: {why}",
            code="unmergeable",
            hint="merge plain LoRA adapters; apply this one to its base instead",
        )


def _refuse_together(parents: Sequence[Parent]) -> None:
    """Raise InputError if two adapters do not belong together."""
    first = parents[0]
    for other in parents[1:]:
        _refuse_bases(first, other)
        for field, code in (("task_type", "other-task"), ("target_parameters", "other-parameters")):
            here, there = (getattr(parent.config, field) for parent in (first, other))
            here, there = (set(value) if isinstance(value, tuple) else value for value in (here, there))
            if here != there and ((here and there) or code == "other-parameters"):
                raise InputError(
                    f"{first.path} and {other.path}: {field} is {here or 'empty'} in the first and {there or 'empty'}"
                    " in the second",
                    code=code,
                    hint="merge adapters of one task type and one kind of targets",
                )
    shapes: dict[str, tuple[Parent, LoraPair]] = {}
    for parent in parents:
        for pair in parent.opened.pairs:
            owner, known = shapes.setdefault(pair.module, (parent, pair))
            if _shape(known) != _shape(pair):
                raise InputError(
                    f"{pair.module} is {_words(known)} in {owner.path}, and {_words(pair)} in {parent.path}",
                    code="shapes-differ",
                    hint="merge adapters of one base model",
                )


def _shape(pair: LoraPair) -> tuple[object, ...]:
    return pair.kind, pair.rows, pair.columns, pair.experts, pair.a.entry.shape[1:]


def _words(pair: LoraPair) -> str:
    experts = f", {pair.experts} experts" if pair.experts > 1 else ""
    return f"{pair.rows} x {pair.columns} ({pair.kind}{experts})"


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
