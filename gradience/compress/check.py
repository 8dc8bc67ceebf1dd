"""Checks of a written adapter: always read back by our own reader, and loaded by PEFT if requested.

PEFT loads in a process of its own (`peft_load`), on a skeleton of the base model: one module for each that the
original adapter names, with the shapes in its file. Dropped modules and stripped heads are included, so that the check
fails if the config still names them. PEFT and torch are never imported in this process.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.config import PeftConfig
from gradience.adapters.keys import PREFIX, ends_with, is_applied, parse_key, path_ends, peft_name
from gradience.compare.module import compare_modules
from gradience.compress.layout import Layout
from gradience.compress.module import CompressedModule
from gradience.errors import MissingExtra, VerificationError
from gradience.reports.compression import PeftCheck

CHECKED_PARAMS = 2**20
"""Parameters of the modules whose errors are measured twice: all of a small adapter, a few modules of a large one."""


class WrittenWrong(RuntimeError):
    """The written adapter differs from the plan: a bug in Gradience, so it keeps its traceback."""


def compared(pair: LoraPair, written: LoraPair) -> float | None:
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F; None if ΔW is 0."""
    return compare_modules(pair, written)[1].relative_difference


def check_written(
    written: Adapter,
    layout: Layout,
    modules: Mapping[str, CompressedModule],
    size: int,
    measure: Callable[[LoraPair, LoraPair], float | None] = compared,
) -> None:
    """Compare the adapter that was read back with what was to be written.

    Raises WrittenWrong, before the folder is put in place.

    The errors of the modules are measured again by `measure`, up to `CHECKED_PARAMS` parameters.
    """
    for complaint in _complaints(written, layout, modules, size, measure):
        raise WrittenWrong(f"{written.location.path}: {complaint}")


def _complaints(
    written: Adapter,
    layout: Layout,
    modules: Mapping[str, CompressedModule],
    size: int,
    measure: Callable[[LoraPair, LoraPair], float | None],
) -> Iterator[str]:
    if written.bytes != size:
        yield f"{written.bytes} bytes, not {size}"
    by_name = {pair.module: pair for pair in written.pairs}
    name_of = {job.pair.module: layout.modules.get(job.pair.module, job.pair.module) for job in layout.jobs}
    if by_name.keys() != set(name_of.values()):
        yield "the modules are not those of the plan"
    names = {name for name, _ in written.entries()}
    if names != set(layout.names.values()) or written.unaudited:
        yield "the tensors are not those that were to be written"
    if layout.form is None:
        misnamed = sorted(name for name in names if not is_applied(name))
        if misnamed:
            yield f"PEFT would not find {misnamed[0]}"
        yield from _config_complaints(written, layout)
    checked = 0
    for job in sorted(layout.jobs, key=lambda job: job.pair.params):
        module, pair = job.pair.module, by_name[name_of[job.pair.module]]
        if not pair.rank == job.stored_rank == (pair.declared_rank or pair.rank):
            ranks = f"the rank {pair.rank}, in the config {pair.declared_rank}, not {job.stored_rank}"
            yield f"{pair.module} has {ranks}"
        wanted = job.scale * job.strength
        if pair.scale is None or not math.isclose(pair.scale * job.fold, wanted, rel_tol=1e-12):
            meant = wanted / job.fold if job.fold else 0.0
            yield f"{pair.module} has the scale {pair.scale}, not {meant}"
        checked += job.pair.params
        if checked > CHECKED_PARAMS:
            continue
        error = measure(job.pair, pair) or 0.0
        if not math.isclose(error, modules[module].error or 0.0, rel_tol=1e-6, abs_tol=modules[module].noise):
            yield f"{module} has an error of {error}, not {modules[module].error}"


def _config_complaints(written: Adapter, layout: Layout) -> Iterator[str]:
    """The config names what the file holds, and nothing that was left out of it."""
    config = written.config
    if config is None:
        yield "no adapter_config.json"
        return
    for pair in layout.dropped:
        if not config.target_names.isdisjoint(path_ends(pair.module)):
            yield f"the config still targets {pair.module}"
    kept = set(layout.names.values())  # a copy of one of these may be left out
    for tensor in layout.stripped:
        name = peft_name(tensor)
        other = parse_key(tensor).role == "other" and name not in kept
        if other and config.saved_whole(name.removeprefix(PREFIX)):
            yield f"PEFT would look for {tensor}, which was stripped"


# ---------------------------------------------------------------- PEFT itself


NEEDED = ("peft", "torch")
TIMEOUT_S = 600
"""Loading takes seconds; an expression in an untrusted config can keep PEFT busy for years."""
_INSIDE = (".base_layer.", ".token_adapter.", ".original_module.")
_TOKENS = ".token_adapter.trainable_tokens_delta"


def require_peft() -> None:
    """Raise MissingExtra (exit 2) if PEFT is not installed. Imports nothing."""
    missing = next((name for name in NEEDED if find_spec(name) is None), None)
    if missing is not None:
        raise MissingExtra(
            f"{missing} is not installed, so PEFT cannot load the result",
            code="missing-extra",
            hint='in your clone of Gradience: pip install ".[hf]", or leave out --verify-peft (verify_peft=)',
        )


def check_with_peft(folder: Path, opened: Adapter, layout: Layout) -> PeftCheck:
    """Load the adapter in `folder` with PEFT; `opened` is the original that it was made from.

    Returns the versions and what was counted. Raises VerificationError (exit 1) if PEFT refuses it, makes a module
    anew, leaves a tensor aside, or gives a module another rank or scale.
    """
    request = {
        "folder": str(folder),
        **skeleton(opened, layout.config),
        "expected": {job.pair.module: [job.stored_rank, job.written_scale] for job in layout.jobs},
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "gradience.compress.peft_load"],
            input=json.dumps(request),
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            check=False,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "PYTHONIOENCODING": "utf-8",
            },
        )
    except subprocess.TimeoutExpired:
        raise _failed(opened, f"PEFT gave no answer within {TIMEOUT_S} s") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        ending = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise _failed(opened, f"the check itself broke: {ending[0][:300]}")
    reply = json.loads(lines[-1])
    problems = reply.pop("problems")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise _failed(opened, f"PEFT {reply['peft']}: {problems[0]}{more}")
    return PeftCheck(**reply)


def _failed(opened: Adapter, reason: str) -> VerificationError:
    return VerificationError(
        f"{opened.location.path}: nothing was written: PEFT does not load the result: {reason}",
        code="peft-refuses",
        hint="please report this; without --verify-peft (verify_peft=) the folder is written anyway",
    )


# ---------------------------------------------------------------- the skeleton


def skeleton(opened: Adapter, config: PeftConfig) -> dict[str, Any]:
    """`layers` that LoRA is on, and the other parameters (`loose`: path -> shape), as JSON."""
    entries = dict(opened.entries())
    paths = {
        peft_name(note.tensor, opened.adapter_name).removeprefix(PREFIX): entries[note.tensor].shape
        for note in opened.other
        if parse_key(note.tensor).role
        == "other"  # neither magnitudes nor the bias of a lora_B: PEFT makes those
    }
    biased = {path.removesuffix(".base_layer.bias") for path in paths if path.endswith(".base_layer.bias")}
    layers = [*_layers(opened.pairs, config, biased), *_token_tables(paths, config)]
    loose = {path: list(shape) for path, shape in paths.items() if not any(part in path for part in _INSIDE)}
    saved = sorted({whole[0] for path in loose if (whole := config.saved_whole(path.rpartition(".")[0]))})
    return {"layers": layers, "loose": loose, "saved": saved}


def _layers(pairs: Sequence[LoraPair], config: PeftConfig, biased: set[str]) -> Iterator[dict[str, Any]]:
    attentions = {pair.module.removesuffix(".base_layer.out_proj") for pair in pairs} & {
        pair.module.partition(".base_layer.")[0] for pair in pairs if ".base_layer." in pair.module
    }
    # The innermost wrapper belongs to the parameter that the model defines first.
    for pair in sorted(pairs, key=lambda pair: -parse_key(pair.a.tensor).depth):
        if ".base_layer." in pair.module:
            continue
        layer: dict[str, Any] = {"name": pair.module, "bias": pair.module in biased}
        if ends_with(pair.module, config.target_parameters):
            shape = [pair.rows, pair.columns]
            yield layer | {
                "kind": "parameter",
                "shape": [pair.experts, *shape] if pair.experts > 1 else shape,
            }
        elif pair.module in attentions:
            yield layer | {"kind": "attention", "shape": [pair.columns]}
        elif pair.kind == "conv":
            yield layer | {
                "kind": "conv",
                "shape": [pair.rows, *pair.a.entry.shape[1:]],
                "groups": pair.groups,
            }
        else:
            yield layer | {"kind": pair.kind, "shape": [pair.rows, pair.columns]}


def _token_tables(paths: dict[str, tuple[int, ...]], config: PeftConfig) -> Iterator[dict[str, Any]]:
    """An embedding for each one with trained rows, long enough for the largest row."""
    indices = config.fields.get("trainable_token_indices") or []
    numbers = [row for rows in indices.values() for row in rows] if isinstance(indices, dict) else indices
    rows = max((row for row in numbers if isinstance(row, int)), default=0) + 1
    for path, shape in paths.items():
        if path.endswith(_TOKENS):
            yield {
                "name": path.removesuffix(_TOKENS),
                "kind": "embedding",
                "shape": [shape[1], rows],
                "bias": False,
            }
