"""Merges of dense updates by mergekit, for tests/merge/test_exact_merges.py; needs a Python with mergekit.

    python scripts/make_merge_fixtures.py tests/merge/mergekit.json

mergekit merges whole weights: the base is 0 here, and the other models are the updates. DARE drops entries at random,
so that only its density 1 is compared.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit.merge_methods import PerInputValues, TensorGroup, get

CASES = [
    {"method": "task_arithmetic", "weights": [1.0, 0.5], "density": 1.0},
    {"method": "task_arithmetic", "weights": [0.7, -0.3], "density": 1.0},
    {"method": "ties", "weights": [1.0, 1.0], "density": 0.3},
    {"method": "ties", "weights": [1.0, 1.0], "density": 0.7},
    {"method": "ties", "weights": [1.0, 1.0, 1.0], "density": 0.5},
    {"method": "dare_linear", "weights": [0.6, 0.4], "density": 1.0},
]


def main() -> None:
    target = Path(sys.argv[1])
    generator = torch.Generator().manual_seed(11)
    updates = [torch.randn(9, 7, generator=generator) for _ in range(3)]
    results = []
    for case in CASES:
        used = updates[: len(case["weights"])]
        group = TensorGroup.from_tensors([torch.zeros(9, 7), *used], base_index=0)
        ids = [entry.id for entry in group.non_base]
        merged = get(case["method"]).merge_group(
            group,
            weight=PerInputValues(list(zip(ids, case["weights"], strict=True))),
            density=PerInputValues([(key, case["density"]) for key in ids]),
            normalize=case["method"] == "ties",
            rescale=False,
            int8_mask=False,
            **{"lambda": 1.0},
        )
        results.append({**case, "merged": merged.tolist()})
    facts = {"mergekit": version("mergekit"), "updates": [one.tolist() for one in updates], "merges": results}
    target.write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
