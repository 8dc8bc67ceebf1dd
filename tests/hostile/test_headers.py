"""Adapters whose header was exchanged: of those that are read, the numbers of a dense SVD (R2)."""

import random
import time

import numpy as np
import pytest
from factory import PREFIX, WEIGHTS, adapter, container, described, factors
from safetensors.numpy import load

from gradience import audit_adapter
from gradience.errors import InputError
from hostile.programs import record

AUDITS = 2_000


def exchanged(chance):
    """A header in which names, types and shapes were exchanged, most of which still describes the data."""
    tensors = {
        name: tensor
        for i in range(3)
        for name, tensor in factors(f"l.{i}.q_proj", r=2, m=4, n=4, seed=i).items()
    }
    header = described(tensors)
    data = b"".join(tensor.data for tensor in tensors.values())
    names = list(header)
    for _ in range(chance.randint(1, 4)):
        a, b = chance.choice(names), chance.choice(names)
        match chance.randrange(5):
            case 0:
                header[a], header[b] = header[b], header[a]
            case 1:
                header[a]["shape"] = header[a]["shape"][::-1]
            case 2:
                header[a]["shape"] = chance.choice([[1, 8], [8, 1], [8], [2, 2, 2], [2, 4, 1, 1], [4, 2]])
            case 3:
                header[a]["dtype"], header[a]["shape"] = chance.choice(
                    [("F64", [2, 2]), ("F16", [2, 8]), ("F16", [4, 4]), ("I32", [2, 4])]
                )
            case _:
                header[a]["data_offsets"], header[b]["data_offsets"] = (
                    header[b]["data_offsets"],
                    header[a]["data_offsets"],
                )
    return container(header, data)


def expected_spectra(content):
    """σ of s·B·A of every module that has two matrices, by a dense SVD; None where they do not fit."""
    with np.errstate(all="ignore"):
        tensors = {
            name: tensor.astype(np.float64)
            for name, tensor in load(content).items()
            if tensor.dtype.kind == "f"
        }
    spectra = {}
    for name, a in tensors.items():
        module, factor, _ = name.removeprefix(PREFIX).partition(".lora_A.weight")
        b = tensors.get(name.replace("lora_A", "lora_B"))
        if not factor or b is None or not a.ndim == b.ndim == 2:
            continue
        fits = b.shape[1] == a.shape[0] and np.isfinite(a).all() and np.isfinite(b).all()
        spectra[module] = 8 / len(a) * np.linalg.svd(b @ a, compute_uv=False) if fits else None
    return spectra


@pytest.mark.parametrize("audits", [150, pytest.param(AUDITS, marks=pytest.mark.hostile)])
def test_the_numbers_of_a_mutant_that_is_read_are_those_of_a_dense_svd(audits, tmp_path):
    started, modules, refused, read = time.perf_counter(), 0, 0, 0
    for number in range(audits):
        content = exchanged(random.Random(number))
        folder = adapter(tmp_path / "a", content)
        try:
            report = audit_adapter(folder)
        except InputError as error:
            refused += str(error).startswith((f"{folder}: ", f"{folder / WEIGHTS}: "))
        else:
            read += 1
            dense = expected_spectra(content)
            rows = {row.name: row for row in report.layers if row.status == "ok" and row.name in dense}
            assert set(rows) == {name for name, sigma in dense.items() if sigma is not None and sigma[0] > 0}
            for name, row in rows.items():
                largest = dense[name][0]
                shown = np.zeros(len(dense[name]))
                few = min(len(shown), len(row.singular_values))
                shown[:few] = row.singular_values[:few]
                assert np.abs(shown - dense[name]).max() <= 1e-11 * largest, (number, name)
                modules += 1
    assert read + refused == audits, "a refusal names the folder or the weights"
    assert modules > audits
    if audits == AUDITS:
        record(
            "R2",
            "numbers of mutants",
            adapters=audits,
            modules=modules,
            read=read,
            refused=refused,
            seconds=round(time.perf_counter() - started),
        )
