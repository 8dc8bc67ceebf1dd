"""`gradience audit`: what goes to which stream, and what it says when something is wrong."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
from command import MODULES, audit, edit, poison, untrain
from killing import HANGS
from pseudo_terminal import drawn_by

from gradience.cli.app import run


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
    ids=["pipe", "forced", "forced-and-refused", "refused", "dumb"],
)
def test_colour(adapter, environment, coloured):
    done = audit(adapter, environment=environment)
    assert ("\x1b[" in done.stdout) is coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", done.stdout) == audit(adapter).stdout


def test_the_same_bytes_twice(adapter):
    assert audit(adapter, "--layers").stdout == audit(adapter, "--layers").stdout


def test_a_narrow_encoding_gets_ascii_of_the_same_shape(adapter):
    done = audit(adapter, environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stdout.isascii()
    wide = audit(adapter).stdout
    assert [len(line) for line in done.stdout.splitlines()] == [len(line) for line in wide.splitlines()]
    assert "\\u" not in done.stdout


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["screen", "json"])
def test_a_stream_in_memory_gets_what_a_pipe_gets(adapter, words):
    with redirect_stdout(io.StringIO()) as memory:
        assert run(["audit", str(adapter), *words]) == 0
    pipe = audit(adapter, *words).stdout
    if words:
        memory, pipe = ({**json.loads(text), "run": None} for text in (memory.getvalue(), pipe))
        assert memory == pipe
    else:
        assert memory.getvalue() == pipe


def test_a_closed_pipe_is_quiet(adapter):
    command = f"{sys.executable} -m gradience audit {adapter} --layers | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_it_is_coloured_and_fits(adapter, columns):
    command = [sys.executable, "-m", "gradience", "audit", str(adapter), "--layers"]
    text = drawn_by(command, columns=columns)[0].replace("\r\n", "\n")
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= columns


def test_it_never_loads_torch(adapter):
    code = (
        "import sys; from gradience.cli.app import run; "
        f"assert run(['audit', {str(adapter)!r}, '--layers', '--quiet']) == 0; "
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=True
    )
    assert not {"torch", "transformers", "peft", "pandas", "scipy"} & set(done.stdout.split())


# ---------------------------------------------------------------- trouble


def test_an_untrained_adapter_is_shown_and_exits_4(adapter):
    edit(adapter, untrain)
    done = audit(adapter)
    assert done.returncode == 4
    assert "Can I trust it?" in done.stdout
    assert f"{adapter}: incomplete: all {MODULES} modules are untrained" in done.stderr
    assert audit(adapter, "--json").returncode == 4


def test_a_module_of_nan_is_shown_and_exits_4(adapter):
    edit(adapter, poison)
    done = audit(adapter, "--layers")
    assert done.returncode == 4
    assert f"NaN or infinity in 1 of {MODULES} modules" in done.stderr
    assert re.search(r"^  model\.layers\.\S+ +8 +nonfinite$", done.stdout, flags=re.MULTILINE)
    assert "✗" in done.stdout


def test_no_config_is_printed_where_none_is_suggested(adapter):
    edit(adapter, poison)
    done = audit(adapter, "--suggest-per-layer")
    assert (done.returncode, done.stdout) == (4, "")
    assert "Traceback" not in done.stderr


def test_a_refused_initialisation_has_no_config_and_says_so(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    assert audit(adapter).returncode == 0
    done = audit(adapter, "--suggest-per-layer")
    assert (done.returncode, done.stdout) == (4, "")
    assert "no rank is suggested" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no adapter"),
        (["A", "--tau", "0"], "tau"),
        (["A", "--tau", "1.5"], "tau"),
        (["A", "--tau", "nan"], "tau"),
        (["A", "--tau", "x"], "--tau"),
        (["A", "--allowed-ranks", "4,x"], "allowed ranks"),
        (["A", "--allowed-ranks", "0"], "allowed"),
        (["A", "--allowed-ranks", ""], "allowed ranks"),
        (["A", "--top-wasteful", "-1"], "--top-wasteful"),
        (["A", "--no-such-option"], "--no-such-option"),
        (["A", "--layers", "--suggest-per-layer"], "--suggest-per-layer"),
        (["A", "A", "--output", "x.json"], "--output"),
        (["A", "A", "--suggest-per-layer"], "--suggest-per-layer"),
        (["A", "A", "--top-wasteful", "3"], "--top-wasteful"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_exit_2_and_print_no_result(adapter, arguments, words):
    done = audit(*(adapter if argument == "A" else argument for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "hint: " in done.stderr


def test_a_missing_adapter_exits_3(tmp_path):
    done = audit(tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (3, "")
    assert str(tmp_path / "nowhere") in done.stderr


def test_an_adapter_name_that_is_not_there_exits_3_or_2(adapter):
    done = audit(adapter, "--adapter", "other")
    assert done.returncode in (2, 3)
    assert "other" in done.stderr


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are any bytes on Linux only")
@pytest.mark.parametrize(
    "name", ["a\x1b[31mb", "a\nerror: forged", "[bold]x[]", "caf\udce9", "--", "<b>", "a\u202eb"], ids=ascii
)
def test_folders_with_hostile_names(adapter, name):
    folder = adapter.parent / name
    adapter.rename(folder)
    for options in ([], ["--json"], ["--layers"], ["--suggest-per-layer"], ["--quiet"]):
        done = audit(folder, *options)
        assert done.returncode == 0, done.stderr
        assert all(c.isprintable() or c == "\n" for c in done.stdout)
        assert "\nerror: forged" not in done.stdout
    missing = audit(adapter.parent / (name + "x"))
    assert missing.returncode == 3
    assert all(c.isprintable() or c == "\n" for c in missing.stderr)
