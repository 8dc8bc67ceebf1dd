"""Memory is computed from the shapes in a header, before anything is allocated: more than the limit is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from factory import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    Stored,
    adapter,
    config,
    container,
    modules,
)
from killing import HANGS

from gradience.adapters.formats import open_adapter
from gradience.adapters.memory import LEAST_LIMIT, MB, audit_bytes, limit_for, workers_within
from gradience.adapters.settings import bytes_of
from gradience.cli.app import run
from gradience.errors import UsageError

MEASURE = """
import json, os, resource, sys
sys.path.insert(0, os.getcwd())
from gradience.adapters import memory
import gradience.reports.audit
from gradience.audit import adapter as audit
from gradience.compare import adapters as compare
from gradience.compress import adapter as compress
from gradience.cli.app import run
import gradience.reports.audit, gradience.reports.compression, gradience.reports.comparison

needs = [0]
def one_at_a_time(limit, adapters, work, workers, *report):
    opened, work = list(adapters), list(work)
    try:  # what is needed stands in the refusal
        memory.workers_within(0, opened, work, workers, *report)
    except memory.InputError as error:
        needs.append(int(str(error).split(" MB")[0].rpartition(" ")[2].replace(",", "")) * memory.MB)
    return memory.workers_within(limit, opened, work, 1, *report)

audit.workers_within = compare.workers_within = compress.workers_within = one_at_a_time
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, -1))
for arguments in json.loads(sys.stdin.read()):
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = run(arguments)
        open("needs", "w").write(str(max(needs)))
        os._exit(code)
    _, status, used = os.wait4(child, 0)
    need = int(open("needs").read()) if os.path.exists("needs") else 0
    print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024, need]), flush=True)
    if os.path.exists("needs"):
        os.unlink("needs")
"""


def measured(folder: Path, commands: list[list[str]]) -> list[list[int]]:
    """Exit code, peak of the resident memory, and what was thought to be needed, of each command in a child."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], input=json.dumps(commands), capture_output=True, text=True, cwd=folder,
        timeout=HANGS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def eighths(*shape: int) -> Stored:
    """A tensor in 8 bits: the most elements for a byte."""
    values = np.random.default_rng(0).integers(0x20, 0x40, int(np.prod(shape)))
    return Stored("F8_E4M3", shape, values.astype(np.uint8).tobytes())


def convolution(groups: int, n: int = 1) -> dict[str, Stored]:
    """A convolution of as many groups as channels: B is a matrix of which all but the diagonal is 0."""
    name = f"{PREFIX}stem.conv"
    return {
        f"{name}.lora_A.weight": eighths(groups, n, 1, 1),
        f"{name}.lora_B.weight": eighths(groups, 1, 1, 1),
    }


def linear(r: int, m: int, n: int) -> dict[str, Stored]:
    name = f"{PREFIX}model.layers.0.mlp.up_proj"
    return {f"{name}.lora_A.weight": eighths(r, n), f"{name}.lora_B.weight": eighths(m, r)}


def experts(count: int) -> dict[str, Stored]:
    name = f"{PREFIX}model.experts"
    return {f"{name}.lora_A.weight": eighths(count, 1), f"{name}.lora_B.weight": eighths(1, count)}


STACKED = config(r=1, target_parameters=["model.experts.up_proj"])
HONEST = {
    "grouped": (convolution(700), config(r=700)),
    "wide": (linear(900, 300, 200), config(r=900)),
    "large": (linear(256, 1024, 1500), config(r=256)),
    "experts": (experts(1500), STACKED),
    "modules": (modules(400, ("q_proj", "k_proj")), config()),
}


def test_what_is_needed_is_no_less_than_what_is_taken(tmp_path):
    asked = []
    for name, (tensors, settings) in HONEST.items():
        folder = str(adapter(tmp_path / name, tensors, settings))
        asked += [
            ["audit", folder, "--json"],
            [
                "compress",
                folder,
                "--rank",
                "1",
                "--encoding",
                "uniform",
                "--output",
                f"{folder}-1",
                "--quiet",
            ],
            ["compare", folder, folder, "--json"],
        ]
    for arguments, (code, peak, need) in zip(asked, measured(tmp_path, asked), strict=True):
        assert code == 0, arguments
        assert 50 * MB < peak <= need < 7 * peak, arguments


HOSTILE = {
    "grouped-12-kB": (convolution(6000), config(r=6000), ["compare"]),
    "grouped-200-kB": (convolution(6000, 30), config(r=6000), ["compare"]),
    "r-20000": (linear(20_000, 1, 1), config(r=20_000), ["compress"]),
    "experts-400000": (experts(400_000), STACKED, ["audit", "compress", "compare"]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_more_than_the_limit_is_refused_with_what_would_be_needed(name, tmp_path, capsys):
    tensors, settings, verbs = HOSTILE[name]
    folder = str(adapter(tmp_path / name, tensors, settings))
    rest = {"audit": [], "compress": ["--rank", "1", "--output", f"{folder}-1"], "compare": [folder]}
    for verb in verbs:
        assert run([verb, folder, *rest[verb]]) == 3
        error = capsys.readouterr().err
        assert f"{name}: this would take about " in error
        assert "the limit is 500 MB" in error
        assert "hint: if you trust the file: --max-memory " in error
        assert not Path(f"{folder}-1").exists()


def headers_only(folder: Path, shapes: dict[str, tuple[int, int]], r: int) -> Path:
    """An adapter of bf16 zeros that takes no room on the disk."""
    tensors = {}
    position = 0
    for name, (m, n) in shapes.items():
        for side, shape in (("A", [r, n]), ("B", [m, r])):
            end = position + 2 * shape[0] * shape[1]
            tensors[f"{PREFIX}{name}.lora_{side}.weight"] = {
                "dtype": "BF16", "shape": shape, "data_offsets": [position, end],
            }  # fmt: skip
            position = end
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(config(r=r)))
    with (folder / WEIGHTS).open("wb") as file:
        file.write(container(tensors))
        file.truncate(file.tell() + position)
    return folder


def test_large_adapters_of_real_shapes_fit_on_every_processor(tmp_path):
    hidden, inner = 4096, 14336
    shapes = {
        f"model.layers.{layer}.{name}": shape
        for layer in range(32)
        for name, shape in {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (1024, hidden),
            "mlp.gate_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        }.items()
    }  # fmt: skip
    for r in (8, 64, 512):
        with open_adapter(headers_only(tmp_path / f"r{r}", shapes, r)) as opened:
            work = [(pair, audit_bytes(pair)) for pair in opened.pairs]
            assert workers_within(limit_for(None, [opened]), [opened], work, 16) == 16


def test_the_default_grows_with_the_file_and_stops_at_half_of_the_machine(tmp_path, monkeypatch):
    with open_adapter(adapter(tmp_path / "small")) as opened:
        assert limit_for(None, [opened]) == LEAST_LIMIT == 500 * MB
        assert limit_for(5, [opened]) == 5
        monkeypatch.setattr(type(opened), "bytes", 10**9)
        monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 10**7, "SC_PAGE_SIZE": 4096}.get)
        assert limit_for(None, [opened]) == 8 * 10**9
        assert limit_for(None, [opened] * 9) == 10**7 * 4096 // 2


# ---------------------------------------------------------------- texts that are small in a file and large in memory


# ---------------------------------------------------------------- sizes as they are typed


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("1.5 gb", 1.5 * 10**9),
        ("800M", 8 * 10**8),
        ("123456", 123456),
        ("7kB", 7000),
    ],
)
def test_a_size(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "GB", "1e9", "2 PB", "1,5GB", "9" * 40])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="is not a size"):
        bytes_of(text)
