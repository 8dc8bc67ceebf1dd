"""The harness: programs of this folder, each run by itself. A sample in the suite, the whole with `make hostile`."""

import os
import pkgutil
import time

import factory
import pytest

from gradience.monitor import monitor_runs
from gradience.reports.base.report import Stopwatch
from gradience.telemetry import TelemetryReader, TelemetryWriter
from hostile import surfaces
from hostile.crash import ERRORS, KILL
from hostile.mutation import CORES, mutants
from hostile.programs import answer_of, record
from hostile.syscalls import strace_works
from hostile.writers import LONG, WRITERS

# ---------------------------------------------------------------- malformed files, and hostile inputs (R1, R3, R19)


NAMES = sorted(module.name for module in pkgutil.iter_modules(surfaces.__path__))
SHARES = {name: 251 if name == "files" else 10 for name in NAMES}
"""Of the inputs of a surface the suite takes one in so many; `make hostile` all, of malformed files one in 25."""


@pytest.mark.slow
@pytest.mark.parametrize("share", {*SHARES.values()})
def test_a_sample_of_every_surface(share, tmp_path):
    names = [name for name in NAMES if SHARES[name] == share]
    tallies = answer_of("surface", root=tmp_path, names=names, share=share)
    assert [problem for tally in tallies for problem in tally["problems"]] == []
    assert all(tally["figures"]["inputs"] for tally in tallies)


@pytest.mark.hostile
@pytest.mark.parametrize("name", NAMES)
def test_every_input_of_a_surface(name, tmp_path):
    (tally,) = answer_of("surface", root=tmp_path, names=[name], share=SHARES[name] // 10)
    assert tally["problems"] == []
    record("R1" if name == "files" else "R19", tally["what"], **tally["figures"])


# ---------------------------------------------------------------- every call that writes, killed and failed (R5, R7)


with_strace = pytest.mark.skipif(not strace_works(), reason="strace is not installed, or may not trace here")


def figures(answer):
    tally = answer["tally"]
    return {
        "kinds of writing": sum(name.endswith(", calls") for name in tally),
        "calls": sum(count for name, count in tally.items() if name.endswith(", calls")),
        "runs": sum(count for name, count in tally.items() if "=" in name),
        "seconds": round(answer["seconds"]),
    }


@with_strace
def test_a_sample_of_the_calls(tmp_path):
    answer = answer_of("crash", root=tmp_path, share=24, hows=[KILL, *ERRORS])
    assert answer["problems"] == []
    assert figures(answer)["runs"] > 8


CRASHES = {
    "killed at every call that writes": (
        "R5", {"writers": [writer.name for writer in (*WRITERS, LONG)], "hows": [KILL]}, {"calls": 500},
    ),
    "disk and permissions refuse every call that writes": ("R7", {"hows": ERRORS}, {"runs": 1400}),
    # a killed training ends with the adapter and the loss of an undisturbed one (R10)
    "a training killed or refused at a third of its calls": (
        "R5", {"writers": ["training"], "share": 3, "hows": [KILL, KILL, *ERRORS]}, {"runs": 40},
    ),
}  # fmt: skip
"""Name -> the goal, the arguments of `crash`, and the minimum figures."""


@pytest.mark.hostile
@with_strace
@pytest.mark.parametrize("what", CRASHES)
def test_every_call_is_killed_or_refused(what, tmp_path):
    goal, asked, least = CRASHES[what]
    answer = answer_of("crash", root=tmp_path, **asked)
    assert answer["problems"] == []
    assert all(figures(answer)[name] >= count for name, count in least.items())
    record(goal, what, **figures(answer))


KILLS = {"file": 0, "folder": 0, "compress": 20, "compress --force": 20}


def test_killed_at_counted_moments_there_is_all_or_nothing(tmp_path):
    answer = answer_of("moments", root=tmp_path, kills=KILLS)
    assert answer["problems"] == []
    # What is left after the kills, remains to be swept included: or this test would have seen nothing.
    *smallest, compress, forced = (answer["tally"][name] for name in KILLS)
    assert compress["none"] + compress["none+"] > 15
    assert forced["old"] + forced["old+"] > 15
    assert min(compress["new"], forced["new"]) > 3
    assert all(sum(tally.values()) >= 40 and tally["old+"] >= 10 for tally in smallest)


# ---------------------------------------------------------------- eight processes write the same at once (R11)


def test_eight_at_once_into_an_adapter_and_a_run(tmp_path):
    answer = answer_of("together", root=tmp_path, rounds=1, writers=["compress", "audit --append"])
    assert answer["problems"] == []
    assert answer["tally"]["exit 2"] == 7


@pytest.mark.hostile
def test_eight_at_once_into_everything_that_is_written(tmp_path):
    answer = answer_of("together", root=tmp_path, rounds=5)
    assert answer["problems"] == []
    assert answer["tally"]["bench run"] == 1
    rounds = sum(count for name, count in answer["tally"].items() if not name.startswith("exit"))
    codes = {name: count for name, count in answer["tally"].items() if name.startswith("exit")}
    record("R11", "eight processes at once", rounds=rounds, **codes, seconds=round(answer["seconds"]))


# ---------------------------------------------------------------- processes that are stopped, and clocks that jump (R9)


HOUR = 3600.0


STOPPED = ("compress", "compress --force", "audit --output", "audit --append", "stages", "bench aggregate")


@pytest.mark.parametrize("stops", [2, pytest.param(60, marks=pytest.mark.hostile)])
def test_a_writer_stopped_while_another_one_writes_the_same(stops, tmp_path):
    answer = answer_of("together", root=tmp_path, stops=stops, writers=STOPPED)
    assert answer["problems"] == []
    assert answer["tally"]["exit 6"] >= 2
    stopped = sum(count for name, count in answer["tally"].items() if name in STOPPED)
    seconds = round(answer["seconds"])
    record("R9", "stopped while another writes, then continued", stops=stopped, seconds=seconds)


def test_a_clock_that_jumps_moves_no_duration(tmp_path, monkeypatch):
    """An hour back and forth, as when a machine's clock is set or the time zone of a naive clock changes."""
    jumps, label = iter([0.0, HOUR, -HOUR, 0.0, -50 * HOUR, 50 * HOUR, 0.0]), 1.8e9
    monkeypatch.setattr("time.time", lambda: label + next(jumps))
    watch = Stopwatch("audit")
    with TelemetryWriter(tmp_path / "run.jsonl") as run:
        run.start({"lora": {"r": 8}})
        for step in range(1, 6):
            run.train_step(step, loss=1.0 / step)
    monkeypatch.undo()
    records = list(TelemetryReader(tmp_path / "run.jsonl"))
    elapsed = [entry.number("elapsed_s") for entry in records if entry.event != "run_start"]
    assert elapsed == sorted(elapsed)
    assert 0 <= elapsed[0] <= elapsed[-1] < HOUR
    assert 0 <= watch.run_info().seconds < HOUR
    (report,) = monitor_runs([tmp_path / "run.jsonl"]).runs
    assert report.seconds is not None
    assert 0 <= report.seconds < HOUR


# ---------------------------------------------------------------- many audits in one process (R12)


KB = 1024


@pytest.mark.parametrize("audits", [300, pytest.param(10_000, marks=pytest.mark.hostile)])
def test_many_audits_in_one_process(audits, tmp_path):
    """With 300, a leak of 15 kB an audit would be noticed; with 10,000, one of 500 bytes."""
    answer = answer_of("soak", adapter=factory.adapter(tmp_path, factory.modules()), audits=audits)
    assert answer["late files"] == answer["early files"]
    growth = (answer["late bytes"] - answer["early bytes"]) // KB
    assert growth < 4096
    figures = {"audits": audits, "growth, kB": growth, "seconds": round(answer["seconds"])}
    record("R12", "audits in one process", **figures)


# ---------------------------------------------------------------- mutants of our own numeric core (R13)


COUNT = int(os.environ.get("MUTANTS", "16"))
"""Of each module, drawn; all of them take hours."""
NOTICED = 0.85

SOURCE = '''
def smaller(a, b=2, **more):
    """Docstring 1."""
    if a < b and not b:
        return -min(a, b) + 1
    raise ValueError("a + 1")
'''


def test_what_is_exchanged():
    sources = [mutant.source for mutant in mutants(SOURCE)]
    assert len(sources) == len(set(sources)) == 10
    assert all("Docstring 1." in source and '"a + 1"' in source for source in sources)
    assert any("a <= b" in source for source in sources)
    assert any("max(a, b)" in source for source in sources)


@pytest.mark.hostile
@pytest.mark.parametrize("module", CORES)
def test_mutants_of_our_own_code_are_noticed(module):
    started = time.perf_counter()
    result = answer_of("mutation", module=module, count=COUNT)
    survivors = result["survivors"]
    assert len(survivors) <= (1 - NOTICED) * result["tried"] + 1, survivors
    figures = {"mutants": result["mutants"], "tried": result["tried"], "survived": len(survivors)}
    seconds = round(time.perf_counter() - started)
    record("R13", f"mutants of {module}", **figures, survivors=survivors, seconds=seconds)
