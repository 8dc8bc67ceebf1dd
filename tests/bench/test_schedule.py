"""Stages in their order, and when each begins and ends on so many machines."""

from __future__ import annotations

from itertools import permutations

import pytest
from bench_sample import config

from gradience.bench.plan.graph import stage_graph
from gradience.bench.plan.schedule import Work, schedule, span
from gradience.bench.plan.variants import asked_for


def test_every_stage_comes_after_what_it_waits_for():
    nodes = stage_graph(asked_for(config().compression), has_base=True, calibrates=True)
    names = [node.name for node in nodes]
    assert names[:5] == ["probe/train", "probe/eval", "base/eval", "audit", "calibration"]
    assert len(set(names)) == len(names)
    for place, node in enumerate(nodes):
        assert set(node.after) <= set(names[:place])
    assert {node.after for node in nodes if node.kind == "cut"} == {("calibration",)}


def test_one_machine_takes_the_sum_and_many_take_the_longest_chain():
    work = [Work("a", 5), Work("b", 3, ("a",)), Work("c", 2, ("a",)), Work("d", 1, ("b", "c"))]
    assert span(schedule(work, 1)) == 11
    assert span(schedule(work, 9)) == 5 + 3 + 1


def test_nothing_overlaps_beyond_the_machines_and_nothing_begins_early():
    work = [Work(str(i), 1 + i % 4, (str(i // 2),) if i else (), takes=1 + i % 2) for i in range(1, 40)]
    times = schedule(work, 3)
    for piece in work:
        begin, _ = times[piece.name]
        assert all(times[name][1] <= begin for name in piece.after if name in times)
        at_once = [each for each in work if times[each.name][0] <= begin < times[each.name][1]]
        assert sum(each.takes for each in at_once) <= 3


def test_it_is_never_worse_than_the_order_that_waits_for_nothing_allows():
    seconds = (4, 3, 2, 2, 1)
    best = min(
        max(sum(order[:cut]), sum(order[cut:]))
        for order in permutations(seconds)
        for cut in range(len(seconds))
    )
    length = span(schedule([Work(str(i), each) for i, each in enumerate(seconds)], 2))
    assert best <= length <= best * 4 / 3  # Graham's bound for the longest first, on two machines 7/6


@pytest.mark.parametrize(
    "work", [[Work("a", 1, takes=2)], [Work("a", 1, ("b",)), Work("b", 1, ("a",))]], ids=["large", "circle"]
)
def test_what_can_never_begin_is_an_error(work):
    with pytest.raises(ValueError, match="can never begin"):
        schedule(work, 1)
