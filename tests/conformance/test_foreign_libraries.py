"""The libraries of other formats themselves: what they write now is read as they compute it."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.conformance
WRITERS = {
    "mlx_lm": ("mlx_adapters", ("mlx", "mlx-bf16")),
    "diffusers": ("image_adapters", ("diffusers", "diffusers-old", "kohya")),
    "gguf": ("gguf_adapters", ("gguf-f32", "gguf-f16", "gguf-q8_0")),
}


@pytest.mark.parametrize("library", WRITERS)
@pytest.mark.filterwarnings("default")
def test_what_a_library_writes_today(library, tmp_path, monkeypatch):
    pytest.importorskip(library, reason="needs the dependency group `conformance`")
    monkeypatch.syspath_prepend(str(ROOT / "adapters"))
    tests = import_module("test_foreign")
    name, kinds = WRITERS[library]
    writer = import_module(f"conformance.{name}")
    for kind in kinds:
        folder = tmp_path / kind
        writer.write(folder, kind)
        computed, tolerance = tests.updates(tests.adapter_in(folder))
        expected = dict(np.load(folder / "expected.npz"))
        assert (
            computed.keys()
            == expected.keys()
            == tests.updates(tests.adapter_in(tests.FOLDER / kind))[0].keys()
        )
        for module, update in expected.items():
            size = tolerance * np.abs(update).max()
            np.testing.assert_allclose(computed[module].reshape(update.shape), update, atol=size, rtol=0)
