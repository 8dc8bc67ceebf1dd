"""Whole processes, measured: wall seconds, processor seconds and peak memory, as medians over runs in turn."""

import os
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Cost(NamedTuple):
    """One run of one process (with the processes it started)."""

    wall: float
    cpu: float
    peak_mb: float


_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
child = os.fork()
if child == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execvp(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - start
print(os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
"""
"""Linux counts the memory of the process that forked into the peak of its child, so a small process must do it."""


def run_once(command: Sequence[str]) -> Cost:
    """Run `command`, its output thrown away. Raises CalledProcessError when it fails.

    Byte code is written and used, as of an installed package, also where the environment forbids to write it.
    """
    launched = subprocess.run(
        [sys.executable, "-S", "-E", "-c", _LAUNCHER, *command],
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        capture_output=True,
        text=True,
        check=True,
    )
    code, wall, cpu, peak = launched.stdout.split()
    if code != "0":
        raise subprocess.CalledProcessError(int(code), command, stderr=launched.stderr)
    return Cost(float(wall), float(cpu), float(peak))


def compare(commands: dict[str, Sequence[str]], runs: int = 5) -> dict[str, Cost]:
    """Medians over `runs` rounds, the commands in turn (A B A B …), after one round that is not counted."""
    rounds: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(runs + 1):
        for name, command in commands.items():
            cost = run_once(command)
            if number:
                rounds[name].append(cost)
    return {
        name: Cost(*(median(values) for values in zip(*costs, strict=True))) for name, costs in rounds.items()
    }


def table(costs: dict[str, Cost], base: str) -> str:
    """A Markdown table with the ratio of wall times to `base`."""
    lines = ["| | wall s | cpu s | peak MB | ratio |", "|---|---|---|---|---|"]
    for name, cost in costs.items():
        ratio = cost.wall / costs[base].wall
        lines.append(f"| {name} | {cost.wall:.2f} | {cost.cpu:.2f} | {cost.peak_mb:.0f} | {ratio:.2f} |")
    return "\n".join(lines)


def machine() -> str:
    """One line about the machine, for the table's caption."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "?")
    return f"{os.cpu_count()} cores, {model}, load {os.getloadavg()[0]:.1f}"
