"""Files are opened in one place: regular ones, of a bounded size, without waiting. Other kinds of files are named."""

import ast
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from raising import raises

import gradience
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.errors import InputError, ReadError, UsageError, shortened
from gradience.reading import open_regular, open_stream, read_file

PACKAGE = Path(gradience.__file__).parent

# ---------------------------------------------------------------- nothing else reads

ALLOWED = {
    "reading.py": {"os.open", "fdopen"},
    "cli/app.py": {"os.open", "read_text"},  # /dev/null, to write; the glossary of the package
    "files/whole.py": {"os.open", "open"},  # to lock and to sync, not to read
    "telemetry/writer.py": {"os.open"},  # to write
    "fleet/measure.py": {"os.open", "fdopen"},  # to append
    "evaluate/checks.py": {"read_text"},  # /proc/meminfo and the limit of a container
    "models/chat.py": {"read_text"},  # /proc/self/statm
    "adapters/tensors.py": {"read_bytes"},  # of a TensorFile
    "reports/calibration.py": {"read_bytes"},  # of a TensorFile
    "reports/page/render.py": {"read_text"},  # of the package's own files
    "evidence/inspect_ai.py": {"ZipFile", "open"},  # a member of what open_stream has opened
    # archives whose sha256 was compared
    "models/embedded.py": {"ZipFile", "tarfile.open", "open", "from_pretrained"},
    # What a library opens by its name; check_regular or our own reader has looked at it.
    "adapters/unpickle.py": {"read_text", "torch.load"},  # in the process that has limits
    "distill/train.py": {"read_bytes", "safe_open"},
    "compress/adapter.py": {"copyfile"},
    "shrink/verb.py": {"copytree"},  # of a candidate that was just written
    "tasks/harness.py": {"read_bytes"},  # the YAML files of the installed lm-eval
    "models/load.py": {"from_pretrained"},
    "evaluate/engines/transformers/engine.py": {"safe_open"},
    # Stages of a Bench, read where the run that wrote them holds the folder.
    "bench/arms.py": {"load_file", "shutil.copy"},
    "bench/verify/folder.py": {"tarfile.open", "copytree"},  # a packed run, its size bounded
    "bench/run/on_ray.py": {"fromfile", "memmap"},
}  # fmt: skip
READERS = {
    "open", "read_text", "read_bytes", "memmap", "fromfile", "genfromtxt", "loadtxt", "fdopen", "load_file",
    "safe_open", "ZipFile", "from_pretrained", "load_from_json", "copyfile", "copy2", "copytree", "getline", "io.open",
    "os.open", "json.load", "np.load", "torch.load", "yaml.load", "yaml.safe_load", "tomllib.load", "tarfile.open",
    "shutil.copy",
}  # fmt: skip
OURS = {"TensorFile.open", "BaseWeights.open", "chosen.open"}
"""Readers of our own, which end in `reading`."""


def reads_in(tree: ast.Module) -> Iterator[str]:
    """Calls that read a file; those that write one say so with a mode."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        full = ast.unparse(call.func)
        name = full.rpartition(".")[2]
        modes = [*call.args, *(keyword.value for keyword in call.keywords)]
        writes = any(
            isinstance(mode, ast.Constant) and mode.value in ("xb", "ab", "wb", "w") for mode in modes
        )
        if full in OURS or (name == "open" and writes):
            continue
        if full in READERS:
            yield full
        elif name in READERS:
            yield name


def test_every_other_file_is_read_through_reading():
    reads = {
        path.relative_to(PACKAGE).as_posix(): set(reads_in(ast.parse(path.read_text(encoding="utf-8"))))
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    assert {path: names for path, names in reads.items() if names} == ALLOWED


# ---------------------------------------------------------------- what cannot be read


def test_a_reader_says_what_it_could_not_read(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(InputError) as missing:
        read_file(path, 10)
    assert (missing.value.code, missing.value.exit_code) == ("not-found", 3)
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with raises(InputError, "too-large", "5 bytes \\(limit: 4\\)"):
        read_file(path, 4)
    with open_stream(path) as stream:
        assert stream.readline() == b"12345"


def test_a_disk_that_fails_is_not_a_broken_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"12345")

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(ReadError, match="reading failed: Input/output error") as caught:
        read_file(path, 5)
    assert (caught.value.code, caught.value.exit_code) == ("unreadable", 5)
    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(ReadError, match="cannot be opened: Input/output error"):
        open_regular(path)


def test_refused_files_leave_no_descriptor_open(tmp_path):
    (tmp_path / "file").write_bytes(bytes(9))
    before = set(os.listdir("/proc/self/fd"))
    for path, limit in ((tmp_path, 1), (tmp_path / "file", 1)):
        with pytest.raises(InputError):
            open_regular(path, limit=limit)
    assert set(os.listdir("/proc/self/fd")) == before


# ---------------------------------------------------------------- how much of it is told


@pytest.mark.parametrize("letter", ["a", "é", "漢", "\x1b", "\udcff", "\n"])
@pytest.mark.parametrize("error", [InputError, UsageError])
def test_an_error_is_short_whatever_it_quotes(letter, error, capsys):
    from gradience.cli.console import show_error

    raised = error(f"file.json: {letter * 10**6} is no number", code="c", hint=letter * 10**6)
    assert len(str(raised).encode(errors="surrogatepass")) <= 1400
    assert str(raised).startswith("file.json: ")
    assert str(raised).endswith(" is no number")
    show_error(str(raised), raised.hint)
    show_error(letter * 10**6)
    first, second = capsys.readouterr().err.split("error: ")[1:]
    assert len(first.encode()) <= 2000
    assert len(second.encode()) <= 2000


def test_what_fits_is_not_shortened():
    assert shortened("σ" * 700, 1400) == "σ" * 700
    assert shortened("σ" * 701, 1400).count("…") == 1


# ---------------------------------------------------------------- what may not be read


VERBS = {
    "audit": (["audit", "adapter"], "adapter_model.safetensors"),
    "audit-append": (["audit", "adapter", "--append", "run.jsonl", "--quiet"], "run.jsonl"),
    "compress-base": (["compress", "adapter", "--rank", "2", "--base-model", "base", "-o", "out"], "config.json"),
    "monitor": (["monitor", "run.jsonl"], "run.jsonl"),
    "bench run": (["bench", "run", "--config", "lora.yaml", "--output", "out"], "lora.yaml"),
}  # fmt: skip


@pytest.fixture
def refusing(tmp_path, monkeypatch):
    """A folder with one file of each kind, of which the kernel opens all but those of one name (root may read all)."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(example_adapter(), tmp_path / "adapter")
    for folder, name in ((".", "run.jsonl"), (".", "lora.yaml"), ("base", "config.json")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text("{}\n")
    real = os.open

    def refuse(name):
        def opened(path, *more, **others):
            if Path(os.fsdecode(path)).name == name:
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return real(path, *more, **others)

        monkeypatch.setattr(os, "open", opened)

    return refuse


@pytest.mark.parametrize("verb", VERBS)
def test_what_may_not_be_read_ends_with_5(verb, refusing, capsys):
    words, name = VERBS[verb]
    refusing(name)
    code = run(words)
    err = capsys.readouterr().err
    assert (code, "Permission denied" in err, name in err) == (5, True, True), err
    assert "check the permissions of the file and its folder" in err
    assert not Path("out").exists()
