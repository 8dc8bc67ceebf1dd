"""Calibrations of an adapter, which `compress` reads: figures that contradict each other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import prompt_samples

from gradience.audit.adapter import audit_adapter
from gradience.reports.calibration import (
    CalibratedModule,
    Calibration,
    ExcludedModule,
    ModuleMoments,
)
from hostile.surface import Input, Surface
from hostile.writers import adapter

ROWS = 12
FILE = "in/c.safetensors"
VERBS = {
    "compress": f"compress in/adapter --calibration {FILE} --reduction 0.5 -o out/small",
}


def calibration_of(folder: Path) -> Calibration:
    """What a measurement of this adapter may give."""
    draw, audited = np.random.default_rng(0), audit_adapter(folder)
    selection, tokens = np.arange(ROWS) % 2 == 0, np.full(ROWS, 3)
    rows, modules = [], {}
    for layer in audited.layers:
        effects = (draw.normal(size=(ROWS, layer.r)) / 2 ** np.arange(layer.r)).astype(np.float32)
        scores = np.square(effects[selection].astype(float)).mean(axis=0)
        effects = effects[:, np.argsort(-scores)]
        change = effects[~selection].astype(float).sum(axis=1)
        square, values = np.eye(layer.r), np.arange(layer.r, 0.0, -1)
        modules[layer.name] = ModuleMoments(
            square, square, square, square, values, np.linspace(1, 0, layer.r + 1), effects, effects
        )
        rows.append(
            CalibratedModule(
                name=layer.name,
                rank=layer.r,
                components=layer.r,
                scale=layer.scale,
                importance=float(np.square(change).sum() / 2 / tokens[~selection].sum()),
                weighted_energy_rank_90=1,
            )
        )
    report = prompt_samples.calibration_report().model_copy(
        update={
            "adapter_sha256": audited.adapter.sha256,
            "modules": tuple(rows),
            "excluded": (),
            "rows": ROWS,
            "selection_rows": int(selection.sum()),
            "scored_tokens": int(tokens[~selection].sum()),
            "prompt_ids": (),
        }
    )
    return Calibration(report, modules, tokens, selection)


def edited(good: Calibration) -> dict[str, Calibration]:
    """By what is wrong with it."""
    report, (first, *others) = good.report, good.report.modules
    moments = good.modules[first.name]

    def with_arrays(**arrays: np.ndarray) -> Calibration:
        return replace(good, modules={**good.modules, first.name: moments._replace(**arrays)})

    def with_report(**changes: object) -> Calibration:
        return replace(good, report=report.model_copy(update=changes))

    def with_row(**changes: object) -> Calibration:
        return with_report(modules=(replace(first, **changes), *others))

    nothing = np.zeros(ROWS, dtype=bool)
    return {
        "negative tokens": replace(good, tokens=-good.tokens),
        "a row without tokens": replace(good, tokens=np.where(np.arange(ROWS) == 3, 0, good.tokens)),
        "2^62 tokens in a row": replace(good, tokens=np.full(ROWS, 2**62)),
        "no selection rows": replace(good, selection=nothing),
        "one selection row": replace(good, selection=np.arange(ROWS) == 4),
        "no rows that predict": replace(good, selection=~nothing),
        "halves exchanged": replace(good, selection=~good.selection, tokens=2 * good.tokens),
        "a module twice": with_report(modules=(first, first, *others)),
        "a module also excluded": with_report(excluded=(ExcludedModule(name=first.name, reason="a"),)),
        "no modules": with_report(modules=()),
        "a rank of 0": with_row(rank=0),
        "a negative rank": with_row(rank=-1),
        "2^62 components": with_row(components=2**62),
        "an importance of 1e300": with_row(importance=1e300),
        "a negative importance": with_row(importance=-first.importance),
        "effects of 1e30": with_arrays(effects=moments.effects * np.float32(1e30)),
        "SVD effects of 1e30": with_arrays(svd_effects=moments.svd_effects * np.float32(1e30)),
        "components in another order": with_arrays(effects=moments.effects[:, ::-1]),
        "negative energies": with_arrays(lost=-moments.lost),
        "negative values": with_arrays(values=-moments.values),
        "NaN": with_arrays(p=moments.p * np.nan),
        "infinite moments": with_arrays(moment_in=np.full_like(moments.moment_in, np.inf)),
        "fewer rows than it says": with_report(rows=ROWS // 2),
        "2^62 rows": with_report(rows=2**62),
        "prompt ids of other rows": with_report(prompt_ids=("a",)),
    }


def surface(folder: Path) -> Surface:
    source = adapter(folder / "adapter")
    good = calibration_of(source)
    files = {"in/adapter": source}

    def written(calibration: Calibration, name: str) -> Path:
        return calibration.write(folder / f"{name}.safetensors")

    return Surface(
        what="calibrations",
        good=[
            Input(verb, words, {**files, FILE: written(good, "good")}, codes={0})
            for verb, words in VERBS.items()
        ],
        inputs=[
            Input(f"{what}: {verb}", words, {**files, FILE: written(each, what.replace("^", ""))})
            for what, each in edited(good).items()
            for verb, words in VERBS.items()
        ],
    )
