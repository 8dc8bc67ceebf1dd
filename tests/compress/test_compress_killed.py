"""A compression that does not come to its end, or whose input changed since it was planned."""

import json
from pathlib import Path

from factor_samples import random_factors, write
from killing import program
from raising import raises

from gradience import audit_adapter
from gradience.adapters.formats import open_adapter
from gradience.compress.adapter import write_compressed
from gradience.errors import UsageError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToRank


def test_killed_out_of_space_or_interrupted_there_is_no_output_or_a_complete_one(tmp_path):
    none, old, new = map(int, program(Path(__file__).with_name("kill_compress.py"), tmp_path).split())
    assert none > 15
    assert old > 15
    assert new > 3


def test_the_input_changed_since_it_was_planned(tmp_path):
    folder = write(tmp_path / "in", random_factors(0, (6, 20, 30)))
    plan = plan_compression(audit_adapter(folder), ToRank(2))
    for changed in (
        lambda: write(folder, random_factors(1, (6, 20, 30))),
        lambda: write(folder, random_factors(0, (5, 20, 30))),
        lambda: write(folder, random_factors(0, (6, 20, 30), (6, 20, 30))),
        lambda: write(folder, random_factors(0, (6, 20, 30)), lora_alpha=99),
    ):
        changed()
        with open_adapter(folder) as opened, raises(UsageError, "plan-mismatch"):
            write_compressed(opened, plan, tmp_path / "out")
        assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == 99
