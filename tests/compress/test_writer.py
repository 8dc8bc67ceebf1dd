"""What lies in a written folder: weights tensor by tensor, the other files carried over, the config."""

import os
import stat
import zipfile

import pytest
from factory import adapter, modules, sharded

from gradience.adapters.locate import locate
from gradience.adapters.tensors import NewTensor, TensorFile, WeightsWriter
from gradience.compress.carry import annotate, carry_files
from gradience.files.card import BEGIN, CARD, END, Card, with_block, without_block, write_card

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


# ---------------------------------------------------------------- The block in a model card: where it goes


YAML = b"---\nlicense: mit\ntags: [lora]\n---\n"
BLOCK = BEGIN + b"Made today.\n" + END
CARDS = {
    "text": (b"# My adapter\n", b"%s# My adapter\n"),
    "yaml": (YAML + b"# My adapter\n", YAML + b"%s# My adapter\n"),
    "blank lines": (YAML + b"\n\n# My adapter", YAML + b"%s\n\n# My adapter"),
    "windows": (YAML.replace(b"\n", b"\r\n") + b"# A\r\n", YAML.replace(b"\n", b"\r\n") + b"%s# A\r\n"),
    "byte order mark": (b"\xef\xbb\xbf" + YAML + b"# A", b"\xef\xbb\xbf" + YAML + b"%s# A"),
    "nothing": (b"", b"%s"),
    "yaml alone": (YAML.rstrip(), YAML + b"%s"),
    "a rule is no yaml": (b"--- no yaml\n---\n", b"%s--- no yaml\n---\n"),
    "a rule below": (b"text\n---\na: b\n---\n", b"%stext\n---\na: b\n---\n"),
    "no UTF-8": (b"\xff\xfe no UTF-8", b"%s\xff\xfe no UTF-8"),
    "an earlier block": (b"# A\n" + BEGIN + b"Old.\n" + END + b"end", b"# A\n%send"),
    "no end": (BEGIN + b"text\n", b"%s" + BEGIN + b"text\n"),
}


@pytest.mark.parametrize(("card", "expected"), CARDS.values(), ids=CARDS)
def test_the_block_stands_above_the_text_and_nothing_else_changes(card, expected):
    written = with_block(card, "Made today.")
    assert written == expected.replace(b"%s", BLOCK)
    assert with_block(written, "Made today.") == written
    assert without_block(written).replace(b"\n", b"") == without_block(card).replace(b"\n", b"")


def test_a_block_is_written_once(tmp_path):
    assert write_card(tmp_path, Card("Made today.")) is True
    assert (tmp_path / CARD).read_bytes() == BLOCK
    assert write_card(tmp_path, Card("Made today.\n")) is False
    assert [path.name for path in tmp_path.iterdir()] == [CARD]


def test_a_folder_without_a_card_gets_none_from_a_compression(tmp_path):
    assert annotate(tmp_path, "Made today.") == ()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / CARD).write_bytes(YAML + b"# A\n")
    assert annotate(tmp_path, "Made today.") == (CARD,)
    assert (tmp_path / CARD).read_bytes() == YAML + BLOCK + b"# A\n"
