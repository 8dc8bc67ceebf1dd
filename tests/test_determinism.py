"""The same adapter gives the same bytes, on any number of workers and of BLAS threads; only `run` may differ."""

import json
import platform

import numpy as np
import pytest
from factor_samples import write
from running import python

from gradience import audit_adapter

PROGRAM = """
import json, sys
import numpy, threadpoolctl
from gradience import audit_adapter
from gradience.reports.base.blocks import View
report = audit_adapter(sys.argv[1], workers=int(sys.argv[2]))
fields = json.loads(report.to_json())
del fields["run"]
kernels = [pool.get("architecture") for pool in threadpoolctl.threadpool_info()]
print(json.dumps({"kernels": kernels, "fields": fields, "text": report.to_text(view=View(full=True))}))
"""


def audited(folder, workers=1, **environment):
    """The audit by a process of its own."""
    done = python("-c", PROGRAM, folder, workers, environment=environment)
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Modules large enough that BLAS would spread them over threads; both routes; an untrained one."""
    folder = tmp_path_factory.mktemp("adapter")
    rng = np.random.default_rng(0)
    factors = {}
    for index, (m, n, r) in enumerate([(1500, 1100, 48), (700, 2100, 16), (900, 900, 64), (64, 5000, 8)] * 3):
        A, B = rng.standard_normal((r, n)), rng.standard_normal((m, r)) * 0.8 ** np.arange(r)
        if index % 4 == 1:
            A[-1] = A[0] + 1e-6 * A[-1]
            B[:, -1] = -B[:, 0]
        if index == 7:
            B[:] = 0
        factors[f"model.layers.{index // 4}.block{index % 4}.proj"] = A, B
    return write(folder, factors, dtype_B="F16", target_modules=["proj"])


def without_run(report) -> str:
    fields = json.loads(report.to_json())
    del fields["run"]
    return json.dumps(fields)


@pytest.fixture(scope="module")
def reference(folder):
    return without_run(audit_adapter(folder, workers=1))


def test_the_adapter_exercises_both_routes(folder):
    report = audit_adapter(folder)
    assert {row.method for row in report.layers} == {"gram", "qr"}
    assert {row.status for row in report.layers} == {"ok", "untrained"}


@pytest.mark.parametrize("workers", [1, 2, 4, 13])
def test_any_number_of_workers(folder, reference, workers):
    assert without_run(audit_adapter(folder, workers=workers)) == reference


@pytest.mark.parametrize(("threads", "workers"), [(1, 1), (2, 2), (4, 4), (3, 1)])
def test_any_number_of_blas_threads(folder, reference, threads, workers):
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_DEFAULT_NUM_THREADS")
    fields = audited(folder, workers, **dict.fromkeys(names, str(threads)))["fields"]
    assert json.dumps(fields) == reference


def test_progress_and_repetition_change_nothing(folder, reference):
    seen = []
    report = audit_adapter(folder, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert without_run(report) == reference
    assert seen == [(done, 12) for done in range(1, 13)]


def numbers_in(value, name=""):
    """(where, number) of every float in what was read from JSON, and everything else as it is."""
    if isinstance(value, dict):
        return [entry for key in value for entry in numbers_in(value[key], f"{name}.{key}")]
    if isinstance(value, list):
        return [entry for place, inner in enumerate(value) for entry in numbers_in(inner, f"{name}.{place}")]
    return [(name, value)]


def test_another_kernel_of_blas_changes_no_digit_that_is_printed(folder):
    """The last stored digit may differ, and the noise at the end of a spectrum: nothing that a screen shows."""
    first, second = (audited(folder, OPENBLAS_CORETYPE=kernel) for kernel in ("Prescott", "Haswell"))
    if platform.machine() == "x86_64" and "OpenBLAS" in json.dumps(np.show_config(mode="dicts"), default=str):
        assert first["kernels"] != second["kernels"]
    assert first["text"] == second["text"]
    for (name, one), (where, other) in zip(
        numbers_in(first["fields"]), numbers_in(second["fields"]), strict=True
    ):
        assert name == where
        if isinstance(one, float) and isinstance(other, float):
            assert one == pytest.approx(other, rel=1e-9, abs=1e-9), name
        else:
            assert one == other, name
