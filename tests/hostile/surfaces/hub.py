"""Answers of a server in the place of the hub, to what `audit`, `check` and `compress` ask of it."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path

from gradience.cli.demo import example_adapter
from hostile.surface import Input, Surface

SERVER = Path(__file__).resolve().parents[2] / "hub" / "hub_server.py"
sys.path.insert(0, str(SERVER.parent))

from hub_server import HEADERS, LISTINGS, LOCATIONS, WAITS, cdn_is_allowed  # noqa: E402

OTHERS = (
    "page",
    "broken",
    "endless list",
    "endless error",
    "endless file",
    "list inside",
    "deep list",
    "compressed list",
    "corrupted",
)
VERBS = (
    "audit {} --json",
    "check --peft-dir {} --json",
    "compress in/adapter --base-model {} --rank 2 -o out/small --quiet",
)


def surface(_folder: Path) -> Surface:
    repos = {
        f"org/{wrong.replace(' ', '-')}": wrong
        for wrong in (*HEADERS, *WAITS, *LOCATIONS, *LISTINGS, *OTHERS)
    }
    server = subprocess.Popen(
        [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.kill)
    for name, wrong in {"org/good": "", **repos}.items():
        server.stdin.write(json.dumps([name, wrong, str(example_adapter())]) + "\n")
    server.stdin.write("\n")
    server.stdin.flush()
    # The cache lies in the folder of each input.
    os.environ |= {
        "HF_ENDPOINT": server.stdout.readline().strip(),
        "HF_HOME": "tmp/hf",
        "HF_HUB_OFFLINE": "0",
    }
    # Another surface may have imported it, and it reads the environment only then.
    for module in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[module]
    cdn_is_allowed()
    files = {"in/adapter": example_adapter()}
    return Surface(
        what="hub answers",
        good=[Input("a hub", verb.format("org/good"), files, codes={0}) for verb in VERBS],
        inputs=[
            Input(f"{wrong}: {verb.split()[0]}", verb.format(name), files, codes={0, 7}, names=[name])
            for name, wrong in repos.items()
            for verb in VERBS
        ],
        may=("socket.",),
    )
