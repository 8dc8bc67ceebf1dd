"""Names from strangers in the tables of every module, which only `--layers` shows."""

from __future__ import annotations

import json

import pytest
from compression_sample import RUN, alone, compared, comparison, plan, planned, report, verdict, written
from test_names import LONG, WORST, steering

SHAPE = (32, 16)


def hostile_plan(name):
    rows = [
        planned(name, 8, 4, SHAPE, fixed=name),
        planned(f"{name}.b", 8, 0, SHAPE),
        planned(f"m.layers.0.{name}", 8, 2, SHAPE),
    ]
    return plan(rows, adapter_path=name, criterion=name)


def hostile_report(name):
    rows = [
        written(name, 8, 4, SHAPE, stored=6),
        written(f"{name}.b", 8, 0, SHAPE),
        written(f"m.layers.0.{name}", 8, 2, SHAPE, output_error=0.1),
    ]
    return report(
        rows,
        source_path=name,
        output_path=name,
        criterion=name,
        carried_files=(name,),
        left_out_files=(name,),
        left_out_tensors=(name,),
        config_changes={name: f"{name} -> {name}", "target_modules": f"{json.dumps([name])} -> null"},
        runtimes=(verdict("A", "1", "refuses", name), verdict("B", "2", "loads", name)),
        warnings=(name,),
        run=RUN.model_copy(update={"command": name}),
    )


def hostile_comparison(name):
    rows = [compared(name, 10), compared(f"m.layers.0.{name}", 20), alone(f"{name}.a", "only-a")]
    return comparison(rows, path_a=name, path_b=name, notes=(name,))


@pytest.mark.parametrize("name", [WORST, LONG], ids=["worst", "long"])
def test_the_table_of_modules_keeps_its_rows(name):
    texts = [
        hostile_plan(name).to_text(layers=True),
        hostile_report(name).to_text(layers=True),
        hostile_comparison(name).to_text(layers=True),
    ]
    for text in texts:
        assert not steering(text, "\n")
    modules = texts[1].partition("\nAll modules\n")[2].partition("\n  Next:")[0]
    assert len(modules.splitlines()) == 1 + 3
