"""Start-up time: `gradience --help` against importing PyTorch.

    python benchmarks/startup.py [--rounds 11]

Fresh processes, taken in turns so that a busy moment hits all of them; medians, and the ratio from the same run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "gradience --help": [sys.executable, "-m", "gradience", "--help"],
    "import numpy": [sys.executable, "-c", "import numpy"],
    "gradience schema audit": [sys.executable, "-m", "gradience", "schema", "audit"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def measure(command: list[str]) -> tuple[float, int]:
    """Wall seconds and peak memory in bytes of one fresh process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    return seconds, usage.ru_maxrss * 1024  # Linux counts in kilobytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    for command in COMMANDS.values():  # files into the page cache, byte code written
        measure(command)
    runs = [{name: measure(command) for name, command in COMMANDS.items()} for _ in range(rounds)]
    result = {
        name: {
            "milliseconds": round(1000 * statistics.median(run[name][0] for run in runs), 1),
            "peak_MB": round(max(run[name][1] for run in runs) / 1e6, 1),
        }
        for name in COMMANDS
    }
    ratio = result["import torch"]["milliseconds"] / result["gradience --help"]["milliseconds"]
    print(json.dumps({"rounds": rounds, "medians": result, "torch_over_help": round(ratio, 1)}, indent=2))


if __name__ == "__main__":
    main()
