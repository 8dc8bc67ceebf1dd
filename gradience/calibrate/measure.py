"""Inputs -> a calibration: the base is loaded, both passes are run, and each module's components get their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradience.adapters.adapter import LoraPair
from gradience.adapters.formats import open_adapter
from gradience.calibrate.batches import EncodedRow, batches_of, encode_pairs, encode_texts, with_completions
from gradience.calibrate.inputs import TEXT_TOKENS, CalibrateInputs
from gradience.calibrate.passes import Moments, gather_effects, gather_moments, reach, routing_of
from gradience.components import RIDGE, Components, components, lost_energies, root
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.files.shared_names import path_text
from gradience.progress import Progress
from gradience.reports.base.run import Stopwatch
from gradience.reports.calibration import (
    CalibratedModule,
    Calibration,
    CalibrationReport,
    ExcludedModule,
    ModuleMoments,
)
from gradience.spectra import FloatArray, energy_rank, triangle

ADAPTER = "adapter"
NOT_A_LAYER = "not a layer that PEFT calls with its inputs"
NO_EFFECT = "its update or its gradient is 0"


@dataclass(frozen=True, slots=True)
class _Measured:
    """One module after the first pass."""

    moments: Moments
    triangle_A: FloatArray
    triangle_B: FloatArray
    weighted: Components
    svd: Components


def measured(inputs: CalibrateInputs, watch: Stopwatch, progress: Progress | None) -> Calibration:
    """The calibration. Raises InputError (`nothing-calibrated`), and what loading the base and encoding rows raise."""
    request = inputs.request
    engine = TransformersEngine.load(inputs.model, labels=inputs.labels, device=request.device)
    engine.add(ADAPTER, inputs.folder)
    with engine.using(ADAPTER) as model, open_adapter(inputs.folder) as opened:
        model.requires_grad_(False)
        selects = np.array(inputs.rows.selects)
        sizes = inputs.to_sample, int(selects.sum()), len(selects)
        advance = counter(progress, sum(-(-size // request.batch_size) for size in sizes))
        rows = encoded_rows(inputs, engine, model, advance)
        selecting = [row for row, chooses in zip(rows, selects, strict=True) if chooses]
        first = batches_of(engine.tokenizer, selecting, request.batch_size, model.device)
        second = batches_of(engine.tokenizer, rows, request.batch_size, model.device)
        layers = reach(model)
        moments, reasons = gather_moments(model, layers.layers, first, request.seed, advance)
        modules = {
            pair.module: _components(pair, moments[pair.module])
            for pair in opened.pairs
            if pair.module in moments
        }
        kept = {name: module for name, module in modules.items() if module.weighted.values.size}
        bases = {name: (module.weighted, module.svd) for name, module in kept.items()}
        watched = {name: layers.layers[name] for name in kept}
        ids, effects, lost = gather_effects(
            model, watched, second if kept else (), bases, request.seed, advance
        )
        known = {**dict.fromkeys(layers.layers, NO_EFFECT), **layers.reasons, **reasons, **lost}
        excluded = tuple(
            ExcludedModule(name=pair.module, reason=known.get(pair.module, NOT_A_LAYER))
            for pair in opened.pairs
            if pair.module not in effects
        )
        if not effects:
            raise InputError(
                f"{request.adapter}: no module can be calibrated: {excluded[0].name}: {excluded[0].reason}",
                code="nothing-calibrated",
                hint="`gradience compress` without --calibration needs no base model",
            )
        place = {row: number for number, row in enumerate(ids)}
        order = [place[row.id] for row in rows]
        arrays = {
            name: _ordered(kept[name], [effect[order] for effect in both], selects)
            for name, both in effects.items()
        }
        tokens = np.array([row.scored for row in rows], dtype=np.int64)
        predicted = int(tokens[~selects].sum())
        writes = inputs.kind != "sequence_classification"

        def importance(effects: NDArray[np.float32]) -> float:
            change = effects[~selects].astype(np.float64).sum(axis=1)
            return float(np.square(change).sum() / 2 / predicted)

        report = CalibrationReport(
            adapter_path=path_text(request.adapter),
            adapter_sha256=opened.sha256(),
            **{
                name: engine.facts[name]
                for name in ("base", "base_sha256", "quantization", "dtype", "device")
            },
            kind=inputs.kind,
            notes=inputs.notes,
            prompts=path_text(request.prompts),
            prompts_sha256=sha256_file(Path(request.prompts)),
            prompt_ids=inputs.rows.prompt_ids(inputs.kind),
            rows=len(rows),
            duplicates=inputs.rows.duplicates,
            selection_rows=int(selects.sum()),
            given_completions=len(rows) - inputs.to_sample if writes else 0,
            sampled_completions=inputs.to_sample,
            completion_tokens=request.completion_tokens if writes else None,
            truncated=sum(row.truncated for row in rows),
            scored_tokens=predicted,
            seed=request.seed,
            batch_size=request.batch_size,
            max_length=length_of(inputs, engine),
            ridge=RIDGE,
            model_type=model.config.model_type,
            accuracy=None if request.accuracy is None else request.accuracy / 100,
            routing=routing_of(model.config.to_dict()),
            modules=tuple(
                CalibratedModule(
                    name=pair.module,
                    rank=pair.rank,
                    components=len(arrays[pair.module].values),
                    scale=pair.scale or 0.0,
                    importance=importance(arrays[pair.module].effects),
                    weighted_energy_rank_90=energy_rank(np.sort(arrays[pair.module].values)[::-1], 0.9),
                )
                for pair in opened.pairs
                if pair.module in arrays
            ),
            excluded=excluded,
            run=watch.run_info(),
        )
    return Calibration(report, arrays, tokens, selects)


# ---------------------------------------------------------------- rows


def length_of(inputs: CalibrateInputs, engine: TransformersEngine) -> int | None:
    """Tokens of a row at most."""
    known, requested = engine.max_length, inputs.request.max_length
    if requested is None and inputs.kind == "sequence_classification":
        requested = TEXT_TOKENS
    return min((length for length in (known, requested) if length is not None), default=None)


def encoded_rows(
    inputs: CalibrateInputs, engine: TransformersEngine, model: Any, on_batch: Callable[[], None]
) -> list[EncodedRow]:
    """Return all rows as token ids. A language model's rows get a completion; on_batch: after each sampled batch."""
    limit, request = length_of(inputs, engine), inputs.request
    if inputs.kind == "sequence_classification":
        return encode_texts(engine.tokenizer, inputs.rows.all, limit)
    encoded = encode_pairs(engine.tokenizer, inputs.rows.all, limit, request.completion_tokens)
    return with_completions(
        model,
        engine.tokenizer,
        encoded,
        tokens=request.completion_tokens,
        batch_size=request.batch_size,
        seed=request.seed,
        on_batch=on_batch,
    )


def counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Return what reports one more of `total` pieces to `progress`."""
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return advance


# ---------------------------------------------------------------- modules


def _components(pair: LoraPair, moments: Moments) -> _Measured:
    loaded = pair.load()
    cores = triangle(loaded.blocks_A()), triangle(loaded.blocks_B())
    triangle_A, triangle_B = (np.ldexp(core.matrix, core.exponent) for core in cores)
    roots = root(moments.moment_in, triangle_A), root(moments.moment_out, triangle_B)
    weighted = components(*roots, triangle_A, triangle_B)
    svd = components(triangle_A, triangle_B, triangle_A, triangle_B)
    return _Measured(moments, triangle_A, triangle_B, weighted, svd)


def _ordered(module: _Measured, effects: Sequence[FloatArray], selects: NDArray[np.bool_]) -> ModuleMoments:
    """One module with its components by falling mean square of what they do to the rows that select."""
    scores = np.square(effects[0][selects]).mean(axis=0)
    order = np.argsort(-scores, kind="stable")
    best = module.weighted.ordered(order)
    lost = lost_energies(best, module.triangle_A, module.triangle_B)
    whole = float(np.square(np.linalg.norm(module.triangle_B @ module.triangle_A.T)))
    return ModuleMoments(
        moment_in=module.moments.moment_in,
        moment_out=module.moments.moment_out,
        p=best.p,
        q=best.q,
        values=best.values,
        lost=lost / whole,
        effects=effects[0][:, order].astype(np.float32),
        svd_effects=effects[1].astype(np.float32),
    )
