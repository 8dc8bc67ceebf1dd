"""What lies in a written folder: weights tensor by tensor, the other files carried over, the config."""

from __future__ import annotations

import os
import stat
import zipfile

from factory import adapter, modules, sharded

from gradience.adapters.locate import locate
from gradience.adapters.tensors import NewTensor, TensorFile, WeightsWriter
from gradience.compress.carry import carry_files

# ---------------------------------------------------------------- the weights


def test_weights_tensor_by_tensor(tmp_path):
    tensors = {"b": NewTensor("F32", (2, 3)), "a": NewTensor("BF16", (4,)), "c": NewTensor("F32", (0,))}
    with WeightsWriter(tmp_path / "w", tensors, {"format": "pt"}) as writer:
        assert writer.names == ("b", "c", "a")
        writer.put(bytes(range(10)))
        writer.put(memoryview(bytes(range(10, 24))))
        writer.put(b"")
        writer.put(bytearray(8))
        digest = writer.close()
    with TensorFile.open(tmp_path / "w") as file:
        assert file.sha256() == digest
        assert file.size == writer.size == (tmp_path / "w").stat().st_size
        assert bytes(file.read_bytes("b")) == bytes(range(24))
        assert file.entries["a"].shape == (4,)
        assert file.metadata == {"format": "pt"}


# ---------------------------------------------------------------- the other files


def test_files_beside_the_weights(tmp_path):
    source = adapter(tmp_path / "in")
    carried = {
        "README.md": "# card",
        "tokenizer.json": "{}",
        "tokenizer_config.json": "{}",
        "special_tokens_map.json": "{}",
        "chat_template.jinja": "{{ x }}",
        "trainer_state.json": "{}",
        "value_head.safetensors": "other weights",
        "notes für später.txt": "ü",
        "empty": "",
    }
    left = {
        "optimizer.pt": "",
        "scheduler.pt": "",
        "training_args.bin": "",
        "rng_state.pth": "",
        "rng_state_0.pth": "",
        "adapter_model.bin": "",
        "pytorch_model.bin": "",
        "pytorch_model-00001-of-00002.bin": "",
        "mp_rank_00_model_states.pt": "",
        "vocabulary.pkl": "",
        "compression_report.json": "{}",
        "compression_report.md": "",
        ".gitattributes": "",
    }
    for name, text in (carried | left).items():
        (source / name).write_text(text)
    (source / "big.bin").write_bytes(bytes(range(256)) * 40_000)
    for name, start in (
        ("notes", b"\x80\x04\x95"),
        ("weights.bin", b"PK\x03\x04"),
        ("damaged.zip", b"PK\x03\x04"),
        ("authors", b"PKU-Alignment"),
    ):
        (source / name).write_bytes(start)
    for name, member in (("state", "archive/data.pkl"), ("docs.zip", "docs/readme.txt")):
        with zipfile.ZipFile(source / name, "w") as archive:
            archive.writestr(member, "x")
    (source / "runs").mkdir()
    (source / "runs" / "events").write_text("")
    os.mkfifo(source / "pipe")
    (source / "gone").symlink_to(source / "nothing")
    (source / "inside").symlink_to(source / "README.md")
    (tmp_path / "secret").write_text("elsewhere")
    (source / "outside").symlink_to(tmp_path / "secret")
    target = tmp_path / "out"
    target.mkdir()
    carried_files, missing = carry_files(locate(source), target)
    expected = {*carried, "big.bin", "inside", "authors", "docs.zip"}
    assert set(carried_files) == set(os.listdir(target)) == expected
    refused = {"runs/", "pipe", "gone", "outside", "notes", "weights.bin", "state", "damaged.zip"}
    assert set(missing) == {*left, *refused}
    assert carried_files == sorted(carried_files)
    for name in carried_files:
        assert (target / name).read_bytes() == (source / name).read_bytes()
        assert stat.S_ISREG((target / name).lstat().st_mode)


def test_shards_and_oddly_named_weights_are_not_carried(tmp_path):
    tensors = modules()
    half = len(tensors) // 2
    items = list(tensors.items())
    shards = {"part-1.safetensors": dict(items[:half]), "part-2.safetensors": dict(items[half:])}
    source = sharded(tmp_path / "in", shards)
    (tmp_path / "out").mkdir()
    assert carry_files(locate(source), tmp_path / "out") == ([], [])
    (adapter(tmp_path / "one") / "adapter_model.safetensors").rename(tmp_path / "one" / "mine.safetensors")
    assert carry_files(locate(tmp_path / "one" / "mine.safetensors"), tmp_path / "out") == ([], [])


# ---------------------------------------------------------------- the config
