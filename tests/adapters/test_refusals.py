"""What the audit refuses: exit code, the file by its name, what is wrong, what to do next. Never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import refusals
from audited import audit, good
from factory import CONFIG, PREFIX, WEIGHTS, Stored, adapter, config, container, modules, stored, zeros
from killing import HANGS
from raising import raises
from test_names import steering

import gradience.audit.adapter
from gradience import audit_adapter, compare_adapters, compress_adapter
from gradience.adapters.adapter import LEAST_LIMIT, MB, limit_for, measure_bytes, workers_within
from gradience.adapters.formats import open_adapter
from gradience.adapters.settings import bytes_of
from gradience.cli.app import run
from gradience.errors import InputError, UsageError


@pytest.mark.parametrize("case", refusals.CASES, ids=lambda case: case.id)
def test_refused(case, tmp_path, command):
    folder = tmp_path / case.id  # many messages name the folder
    folder.mkdir()
    out, err = command("audit", case.build(folder), *case.options, code=3)
    assert out == ""
    message, _, hint = err.partition("\n\nhint: ")
    assert message.startswith("error: ")
    assert [words for words in (case.file, *case.says) if words not in message] == []
    assert [words for words in case.hint if words not in hint] == []
    # A name with a line break in it cannot pose as a line of ours.
    assert all(line.startswith(" ") for line in message.split("\n")[1:])
    assert not steering(err, "\n")


# ---------------------------------------------------------------- Paths


def test_a_path_that_is_no_utf8(tmp_path, capsys):
    folder = adapter(tmp_path / os.fsdecode(b"bytes\xff\xfe"))
    outcome = good(audit(capsys, folder))
    assert outcome.report["adapter"]["path"].endswith("bytes\\xff\\xfe")


# ---------------------------------------------------------------- Adapters that can be audited only in part


Q0, V1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"
A, B = f"{PREFIX}{Q0}.lora_A.weight", f"{PREFIX}{Q0}.lora_B.weight"


def array(tensor: Stored) -> np.ndarray:
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape).copy()


def changed(tensors, name, position, value, dtype=np.float32):
    """`tensors` with one value of one tensor replaced, stored as `dtype`."""
    values = array(tensors[name]).astype(dtype)
    values[position] = value
    return tensors | {name: stored(values)}


# ---------------------------------------------------------------- NaN and infinity


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", [A, B], ids=["A", "B"])
def test_one_value_that_is_no_number(value, dtype, name, tmp_path, capsys):
    outcome = audit(capsys, adapter(tmp_path, changed(modules(), name, (1, 2), value, dtype)))
    assert outcome.code == 4
    assert outcome.statuses == ["nonfinite", "ok", "ok", "ok"]
    count = 64 if name == A else 48
    finding = outcome.finding("non-finite")
    assert finding["severity"] == "error"
    assert finding["message"] == f"{name}: 1 of {count} values are NaN or infinite, the first at [1, 2]"
    assert outcome.report["layers"][0]["stable_rank"] is None
    # A verdict on ranks may not rest on an adapter that is broken.
    assert outcome.report["suggestions"] is None
    assert outcome.report["suggested_r_global_median"] is None
    assert str(tmp_path) in outcome.err
    assert "NaN or infinity" in outcome.err


# ---------------------------------------------------------------- half a pair, or no pair


def without(*names):
    return {name: tensor for name, tensor in modules().items() if name not in names}


INCOMPLETE = {
    "A-without-B": (without(B), [A], "A without B"),
    "B-without-A": (without(A), [B], "B without A"),
    "inner-mismatch": (modules() | {B: zeros(12, 3)}, [A, B], "inner dimensions differ: A is [4, 16], B is [12, 3]"),
    "A-transposed": (modules() | {A: zeros(16, 4)}, [A, B], "inner dimensions differ"),
    "rank-0": (modules() | {A: zeros(0, 16), B: zeros(12, 0)}, [A, B], "rank 0"),
    "zero3-empty": (modules() | {A: zeros(0), B: zeros(0)}, [A, B], "DeepSpeed ZeRO-3"),
    "zero3-half": (modules() | {B: zeros(0)}, [A, B], "stage3_gather_16bit_weights_on_model_save"),
    "flattened": (modules() | {A: zeros(64), B: zeros(48)}, [A, B], "1 dimension"),
    "scalar": (modules() | {A: zeros(), B: zeros()}, [A, B], "0 dimension"),
    "int8": (modules() | {A: Stored("I8", (4, 16), bytes(64))}, [A, B], "stored as I8"),
    "bool": (modules() | {B: Stored("BOOL", (12, 4), bytes(48))}, [A, B], "stored as BOOL"),
    "fp4": (modules() | {A: Stored("F4", (4, 16), bytes(32))}, [A, B], "stored as F4"),
    "twice-by-prefix": (modules() | {A.removeprefix(PREFIX): zeros(4, 16)}, [A, A.removeprefix(PREFIX), B], "several"),
    "linear-and-embedding": (
        modules() | {f"{PREFIX}{Q0}.lora_embedding_A": zeros(4, 9)},
        [A, B, f"{PREFIX}{Q0}.lora_embedding_A"],
        "several tensors claim",
    ),
    "kernel-in-B": (
        modules() | {A: zeros(4, 2, 3, 3), B: zeros(12, 4, 3, 3)},
        [A, B],
        "a B kernel larger than 1",
    ),
    "unknown-tensor": (modules() | {"surprise": zeros(3)}, ["surprise"], "unknown tensor"),
    "factor-with-a-strange-tail": (
        modules() | {f"{PREFIX}{Q0}.lora_C.weight": zeros(3)}, [f"{PREFIX}{Q0}.lora_C.weight"], "unknown tensor"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "missing", "reason"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_what_cannot_be_audited_is_named_and_the_rest_is_measured(tensors, missing, reason, tmp_path, capsys):
    outcome = audit(capsys, adapter(tmp_path, tensors))
    assert outcome.code == 4
    assert sorted(outcome.unaudited) == sorted(missing)
    assert all(reason in text for text in outcome.unaudited.values())
    finding = outcome.finding("unaudited")
    assert finding["severity"] == "error"
    assert reason in finding["message"]
    assert set(outcome.statuses) == {"ok"}
    assert len(outcome.statuses) == (4 if Q0 not in missing[0] or "lora_C" in missing[0] else 3)
    assert "could not be audited" in outcome.err
    assert "--layers and --json" in outcome.err


# ---------------------------------------------------------------- untrained


def untrained(*parts):
    return {
        name: zeros(*tensor.shape) if "lora_B" in name and any(part in name for part in parts) else tensor
        for name, tensor in modules().items()
    }


def test_some_modules_untrained_is_a_finding(tmp_path, capsys):
    outcome = audit(capsys, adapter(tmp_path, untrained("v_proj")))
    assert outcome.code == 0
    assert sorted(outcome.statuses) == ["ok", "ok", "untrained", "untrained"]
    finding = outcome.finding("dead-modules")
    assert finding["message"].startswith("2 of 4 modules were never trained")
    assert V1 in finding["message"]
    # They get the smallest rank, and the median does not see them.
    ranks = outcome.report["suggestions"]["per_layer"]["rank_pattern"]
    assert [rank for key, rank in ranks.items() if "v_proj" in key] == [1, 1]


# ---------------------------------------------------------------- while it is read


def test_weights_that_shrink_during_the_audit(tmp_path, command, monkeypatch):
    """A download that is replaced, a disk that fills: the read ends early, and no number is made of it."""
    folder = adapter(tmp_path)
    opening = gradience.audit.adapter.open_adapter

    def opened_and_cut(*arguments, **options):
        opened = opening(*arguments, **options)
        os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 1)
        return opened

    monkeypatch.setattr(gradience.audit.adapter, "open_adapter", opened_and_cut)
    out, err = command("audit", folder, code=3)
    assert out == ""
    assert f"{WEIGHTS}: truncated: " in err
    assert "hint: download or copy it again" in err


# ---------------------------------------------------------------- several adapters


def test_the_highest_code_wins_and_the_others_are_still_audited(tmp_path, command):
    good = adapter(tmp_path / "a-good")
    untrained_one = adapter(tmp_path / "b-untrained", untrained(""))
    broken = adapter(tmp_path / "c-broken", b"")
    command("audit", good, untrained_one, code=4)
    out, err = command("audit", good, untrained_one, broken, "--json", code=4)
    assert len(out.splitlines()) == 2
    assert "c-broken/adapter_model.safetensors: the file is empty" in err
    assert run(["audit", str(good), str(broken)]) == 3


# ---------------------------------------------------------------- Memory is estimated from the shapes


MEASURE = """
import json, os, resource, sys
from gradience.adapters import adapter
import gradience.reports.audit
from gradience.audit import adapter as audit
from gradience.compress import adapter as compress
import gradience.compare.adapters
from gradience.cli.app import run
import gradience.reports.audit, gradience.reports.compression, gradience.reports.comparison

needs, within = [0], adapter.workers_within
def one_at_a_time(limit, adapters, work, workers):
    opened, work = list(adapters), list(work)
    try:  # the refusal states what is needed
        within(0, opened, work, workers)
    except adapter.InputError as error:
        needs.append(int(str(error).split(" MB")[0].rpartition(" ")[2].replace(",", "")) * adapter.MB)
    return within(limit, opened, work, 1)

audit.workers_within = adapter.workers_within = compress.workers_within = one_at_a_time
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


CLAIMS = {
    "grouped-12-kB": (convolution(6000), config(r=6000), ["audit", "compress", "compare"]),
    "grouped-200-kB": (convolution(6000, 30), config(r=6000), ["audit", "compress", "compare"]),
    "r-20000": (linear(20_000, 1, 1), config(r=20_000), ["compress"]),
    "experts-400000": (experts(400_000), STACKED, ["audit", "compress", "compare"]),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_more_than_the_limit_is_refused_with_what_would_be_needed(name, tmp_path, command):
    tensors, settings, verbs = CLAIMS[name]
    folder = str(adapter(tmp_path / name, tensors, settings))
    rest = {"audit": [], "compress": ["--rank", "1", "--output", f"{folder}-1"], "compare": [folder]}
    for verb in verbs:
        error = command(verb, folder, *rest[verb], code=3).err
        assert f"{name}: this would take about " in error
        assert "the limit is 500 MB" in error
        assert "hint: if you trust the file, raise the limit: --max-memory " in error
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
            work = [(pair, measure_bytes(pair)) for pair in opened.pairs]
            assert workers_within(None, [opened], work, 16) == 16


def test_the_default_grows_with_the_file_and_stops_at_half_of_the_machine(tmp_path, monkeypatch):
    with open_adapter(adapter(tmp_path / "small")) as opened:
        assert limit_for(None, [opened]) == LEAST_LIMIT == 500 * MB
        assert limit_for(5, [opened]) == 5
        monkeypatch.setattr(type(opened), "bytes", 10**9)
        monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 10**7, "SC_PAGE_SIZE": 4096}.get)
        assert limit_for(None, [opened]) == 8 * 10**9
        assert limit_for(None, [opened] * 9) == 10**7 * 4096 // 2


# ---------------------------------------------------------------- sizes as they are typed


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("1.5 gb", 1.5 * 10**9), ("800M", 8 * 10**8), ("123456", 123456), ("7kB", 7000)],
)
def test_a_size(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "GB", "1e9", "2 PB", "1,5GB", "9" * 40])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="is not a size"):
        bytes_of(text)


# ---------------------------------------------------------------- Factors at the ends of float64


def in_f64(factor_A, factor_B):
    """The factors of a small model in F64, A and B multiplied."""
    tensors = {}
    for name, tensor in modules(1).items():
        values = np.frombuffer(tensor.data, np.float32).reshape(tensor.shape).astype(np.float64)
        tensors[name] = stored(values * (factor_A if "lora_A" in name else factor_B))
    return tensors


def strict(report):
    """The report, whose JSON may hold no NaN."""
    json.loads(report.to_json(), parse_constant=pytest.fail)
    return report


@pytest.mark.parametrize(("factor_A", "factor_B"), [(1e160, 1e160), (1e-160, 1e-160), (1e-300, 1e-300)])
@pytest.mark.filterwarnings("error")
def test_what_float64_cannot_hold_is_refused(tmp_path, factor_A, factor_B):
    folder = adapter(tmp_path / "adapter", in_f64(factor_A, factor_B))
    usual = adapter(tmp_path / "usual", in_f64(1.0, 1.0))
    strict(audit_adapter(folder))
    comparisons = [lambda: compare_adapters(folder, usual), lambda: compare_adapters(usual, folder)]
    for refused in (
        lambda: compress_adapter(folder, rank=2, dry_run=True),
        lambda: compress_adapter(folder, rank=2, output=tmp_path / "smaller"),
        *(comparisons if factor_A > 1 else []),
    ):
        with raises(InputError, "overflow", "q_proj"):
            refused()
    if factor_A < 1:  # beside an ordinary update, one as small as this counts as 0
        assert strict(compare_adapters(usual, folder)).relative_difference == 1
    assert not (tmp_path / "smaller").exists()
