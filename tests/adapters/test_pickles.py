"""Pickles, where they are allowed: read in a process with limits, or refused with a message each."""

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from raising import raises
from safetensors.torch import load_file

from gradience import audit_adapter
from gradience.adapters import formats, unpickle
from gradience.cli.demo import example_adapter
from gradience.digests import sha256_file
from gradience.errors import InputError, MissingExtra
from gradience.reports.base.blocks import View

WEIGHTS = "adapter_model.safetensors"


class Forbidden:
    def __reduce__(self):
        return os.system, ("touch PWNED",)


def saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def deflated(data: bytes) -> bytes:
    """The same archive, compressed: 200 kB on the disk, and more in memory."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    return stream.getvalue()


def endless() -> bytes:
    """A tuple of two, of two, of two …: small, and its hash takes 2^60 steps. The key of a dict is hashed."""
    nested: object = ()
    for _ in range(60):
        nested = (nested, nested)
    opcodes = pickle.dumps([nested], protocol=2)
    # ( dict ) of that tuple: EMPTY_DICT, the tuple, None, SETITEM; the list around it was only to pickle it.
    body = opcodes[opcodes.index(b"]q\x00") + 3 : opcodes.rindex(b"a.")]
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({}))) as old, zipfile.ZipFile(stream, "w") as new:
        for record in old.infolist():
            data = b"\x80\x02}" + body + b"Ns." if record.filename.endswith("data.pkl") else old.read(record)
            new.writestr(record.filename, data)
    return stream.getvalue()


FILES = {
    "a bomb": (lambda: deflated(saved({"w": torch.zeros(2**20)})), "claims"),
    "a forbidden global": (lambda: saved({"w": Forbidden()}), "system"),
    "a view of 2^40 elements": (
        lambda: saved({"w": torch.zeros(1).as_strided((2**40,), (0,))}), "1,099,511,627,776",
    ),
    "no tensors": (lambda: saved({"w": 1, "v": torch.ones(2)}), "int"),
    "a list": (lambda: saved([torch.ones(2)]), "list"),
    "a sparse tensor": (lambda: saved({"w": torch.eye(2).to_sparse()}), "not a plain tensor"),
    "half a file": (lambda: saved({"w": torch.zeros(999)})[:2000], ""),
    "no pickle": (lambda: b"hello, this is no pickle", ""),
}  # fmt: skip


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """The example, its weights as torch.save writes them."""
    folder = Path(shutil.copytree(example_adapter(), tmp_path / "adapter"))
    (folder / "adapter_model.bin").write_bytes(saved(load_file(folder / WEIGHTS)))
    (folder / WEIGHTS).unlink()
    return folder


def test_a_pickle_is_read_as_the_same_adapter_is(adapter: Path) -> None:
    with raises(InputError, "pickle") as caught:
        audit_adapter(adapter)
    assert "--allow-pickle" in caught.value.hint
    report, known = audit_adapter(adapter, allow_pickle=True), audit_adapter(example_adapter())
    shown = report.to_text(view=View(brief=True, paths=("A",)))
    assert "Next: gradience convert A as_peft --allow-pickle" in shown
    assert report.layers == known.layers
    assert (report.adapter.pickle, known.adapter.pickle) == (True, False)
    assert report.adapter.path == adapter.name
    assert report.adapter.sha256 == sha256_file(adapter / "adapter_model.bin")
    assert report.adapter.bytes == (adapter / "adapter_model.bin").stat().st_size


@pytest.mark.parametrize("name", FILES)
def test_what_is_wrong_is_said(name: str, tmp_path: Path) -> None:
    make, words = FILES[name]
    path = tmp_path / "adapter_model.bin"
    path.write_bytes(make())
    with pytest.raises(unpickle.RefusedPickle) as caught:
        unpickle.read(path)
    assert words in str(caught.value)


FORBIDDEN = "a forbidden global"
REST = [pytest.param(name, marks=pytest.mark.conformance) for name in FILES if name != FORBIDDEN]


@pytest.mark.parametrize("name", [FORBIDDEN, *REST])
def test_the_process_ends_in_one_message(
    name: str, adapter: Path, tmp_path: Path, command, monkeypatch
) -> None:
    make, words = FILES[name]
    (adapter / "adapter_model.bin").write_bytes(make())
    monkeypatch.chdir(tmp_path)
    assert words in command("audit", adapter, "--allow-pickle", code=3).err
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize(
    ("content", "code", "hint"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9000\n",
            "lfs-pointer",
            "git lfs pull",
        ),
        (b"<!doctype html><title>Not found</title>", "html-page", "hf download"),
        (b"", "empty-file", "again"),
    ],
    ids=["git-lfs", "html", "empty"],
)
def test_what_stands_in_the_place_of_a_pickle_is_not_called_malicious(
    content, code, hint, adapter: Path
) -> None:
    (adapter / "adapter_model.bin").write_bytes(content)
    with pytest.raises(InputError) as caught:
        audit_adapter(adapter, allow_pickle=True)
    assert (caught.value.code, hint in caught.value.hint) == (code, True)


def test_a_hang_ends(adapter: Path, monkeypatch) -> None:
    (adapter / "adapter_model.bin").write_bytes(endless())
    monkeypatch.setattr(formats, "CPU_SECONDS", 1)
    with pytest.raises(InputError, match="time limit"):
        audit_adapter(adapter, allow_pickle=True)


@pytest.mark.conformance
def test_memory_ends(adapter: Path, monkeypatch) -> None:
    (adapter / "adapter_model.bin").write_bytes(saved({"w": torch.zeros(50 * 2**20, dtype=torch.uint8)}))
    monkeypatch.setattr(formats, "MEMORY_BYTES", 2**20)
    monkeypatch.setattr(formats, "MEMORY_FACTOR", 0)
    with pytest.raises(InputError, match="memory limit"):
        audit_adapter(adapter, allow_pickle=True)


def test_an_older_torch_is_not_used(adapter: Path, monkeypatch) -> None:
    monkeypatch.setattr(formats, "version", lambda name: "2.9.1")
    with pytest.raises(MissingExtra) as caught:
        audit_adapter(adapter, allow_pickle=True)
    assert "PyTorch is 2.9.1" in str(caught.value)
