"""mergekit's task arithmetic, TIES and DARE on dense updates, recorded by scripts/make_merge_fixtures.py."""

import json
from pathlib import Path

import numpy as np
import pytest
from merging import write_updates

from gradience import merge_adapters
from gradience.adapters.formats import open_adapter
from gradience.adapters.tensors import decode

RECORD = json.loads(Path(__file__).with_name("mergekit.json").read_text(encoding="utf-8"))
OURS = {"task_arithmetic": "linear", "ties": "ties", "dare_linear": "dare"}


@pytest.mark.parametrize("merge", RECORD["merges"], ids=lambda merge: f"{merge['method']}-{merge['density']}")
def test_equal_to_mergekit(merge, tmp_path):
    updates = [np.array(update) for update in RECORD["updates"][: len(merge["weights"])]]
    folders = [
        write_updates(tmp_path / str(place), {"layer": update}) for place, update in enumerate(updates)
    ]
    method = OURS[merge["method"]]
    options = {} if method == "linear" else {"density": merge["density"], "rank": 7}
    merge_adapters(folders, tmp_path / "out", method=method, weights=merge["weights"], **options)
    with open_adapter(tmp_path / "out") as opened:
        (pair,) = opened.pairs
        loaded = pair.load()
        merged = pair.scale * decode(loaded.words_B()) @ decode(loaded.words_A()).T
    np.testing.assert_allclose(merged, merge["merged"], rtol=1e-5, atol=1e-6)
