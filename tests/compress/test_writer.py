"""What lies in a written folder: weights tensor by tensor, the other files carried over, the config."""

import os
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from compressing import ENCODINGS, compress
from factory import adapter
from peft_cases import CASES, load, outputs, relative_errors, unexpected
from peft_models import peft_updates
from raising import raises
from safetensors.torch import load_file, save_file

from gradience import audit_adapter
from gradience.adapters.locate import locate
from gradience.adapters.tensors import NewTensor, TensorFile, write_tensors
from gradience.compress.carry import COPIED_CARD, annotate, carry_files
from gradience.errors import InputError
from gradience.files.card import BEGIN, CARD, END, Card, with_block, without_block, write_card
from gradience.plan.criteria import ToBudget, ToEnergy, ToRank

# ---------------------------------------------------------------- the weights


def test_weights_tensor_by_tensor(tmp_path):
    tensors = {
        "b": NewTensor("F32", (2, 3), [bytes(range(10)), bytes(range(10, 24)), b""]),
        "a": NewTensor("BF16", (4,), [bytes(8)]),
        "c": NewTensor("F32", (0,)),
    }
    digest, size = write_tensors(tmp_path / "w", tensors, {"format": "pt"})
    with TensorFile.open(tmp_path / "w") as file:
        assert file.sha256() == digest
        assert file.size == size == (tmp_path / "w").stat().st_size
        assert bytes(file.read_bytes("b")) == bytes(range(24))
        assert file.entries["a"].shape == (4,)
        assert list(file.entries) == ["b", "c", "a"]
        assert file.metadata == {"format": "pt"}


# ---------------------------------------------------------------- the other files


def test_files_beside_the_weights(tmp_path):
    source = adapter(tmp_path / "in")
    carried = (
        "README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
        "value_head.safetensors", "notes für später.txt",
    )  # fmt: skip
    left = (
        "optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "rng_state_0.pth", "adapter_model.bin",
        "pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "mp_rank_00_model_states.pt", "vocabulary.pkl",
        "compression_report.json", "compression_report.md", ".gitattributes", "trainer_state.json", "training.json",
        "training_log.jsonl", "eval_results.json",
    )  # fmt: skip
    for name in (*carried, *left):
        (source / name).write_text(f"{name}: für später")
    (source / "empty").touch()
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
    expected = {*carried, "empty", "big.bin", "inside", "authors"}
    assert set(carried_files) == set(os.listdir(target)) == expected
    refused = {"runs/", "pipe", "gone", "outside", "notes", "weights.bin", "state", "docs.zip", "damaged.zip"}
    assert set(missing) == {*left, *refused}
    assert carried_files == sorted(carried_files)
    for name in carried_files:
        assert (target / name).read_bytes() == (source / name).read_bytes()
        assert stat.S_ISREG((target / name).lstat().st_mode)


def test_oddly_named_weights_are_not_carried(tmp_path):
    (tmp_path / "out").mkdir()
    (adapter(tmp_path / "one") / "adapter_model.safetensors").rename(tmp_path / "one" / "mine.safetensors")
    assert carry_files(locate(tmp_path / "one" / "mine.safetensors"), tmp_path / "out") == ([], [])


# ---------------------------------------------------------------- The block in a model card


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
    block = BLOCK.replace(END, b"\n" + COPIED_CARD.encode() + b"\n" + END)
    assert (tmp_path / CARD).read_bytes() == YAML + block + b"# A\n"


# ---------------------------------------------------------------- Renamed and omitted tensors


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


# ---------------------------------------------------------------- foreign names


def with_adapter_name(name: str) -> str:
    """As in the state of a live model whose adapter is called `ranking`."""
    for factor in ("lora_embedding_A", "lora_embedding_B", "lora_A", "lora_B", "trainable_tokens_delta"):
        if f".{factor}" in name:
            return name.replace(f".{factor}", f".{factor}.ranking")
    if "base_layer" in name:
        return name
    module, _, parameter = name.rpartition(".")
    return f"{module}.modules_to_save.ranking.{parameter}"


FOREIGN = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled inside": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "no prefix": lambda name: name.removeprefix("base_model.model."),
    "data parallel": lambda name: f"module.{name}",
    "an adapter's name": with_adapter_name,
}
NAMED = ["llama", "embedding", "convolutions", "experts", "attention", "lora-bias", "biases", "token-rows"]
NAMED += ["bert-head"]


def renamed(folder: Path, target: Path, rename) -> Path:
    target.mkdir()
    shutil.copy(folder / CONFIG, target)
    tensors = load_file(folder / WEIGHTS)
    save_file({rename(name): tensor for name, tensor in tensors.items()}, target / WEIGHTS)
    return target


def does_nothing(case, folder: Path) -> bool:
    """Whether PEFT refuses the folder, or loads it and computes what the base computes."""
    try:
        model, messages = load(case, folder)
    except KeyError:
        return True
    silent = all(not update.any() for update in peft_updates(model).values())
    assert silent == any("missing adapter keys" in message for message in messages)
    return silent


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("name", NAMED)
def test_foreign_names_are_written_as_peft_looks_for_them(name, foreign, originals, tmp_path):
    case, folder, known, _, expected = originals(name)
    source = renamed(folder, tmp_path / "in", FOREIGN[foreign])
    # For mixtures of experts transformers rewrites the names, and happens to add the prefix.
    assert does_nothing(case, source) != (name == "experts" and foreign == "no prefix")
    finding = next(finding for finding in audit_adapter(source).findings if finding.code == "not-applied")
    assert finding.severity == "error"

    report = compress(source, tmp_path / "full", ToRank(64))
    assert report.renamed > 0
    model, messages = load(case, tmp_path / "full")
    assert unexpected(messages, known, report) == []
    assert torch.allclose(outputs(model), expected, rtol=1e-10, atol=1e-12)
    assert "not-applied" not in {finding.code for finding in audit_adapter(tmp_path / "full").findings}

    encoding = ENCODINGS[(NAMED.index(name) + list(FOREIGN).index(foreign)) % len(ENCODINGS)]
    encoding = "patterns" if encoding in (case.refused or {}) else encoding
    report = compress(source, tmp_path / "small", ToRank(2), encoding=encoding)
    errors = relative_errors(peft_updates(model), peft_updates(load(case, tmp_path / "small")[0]))
    for row in report.modules:
        assert errors[row.name] == pytest.approx(row.measured_error, rel=1e-8)


# ---------------------------------------------------------------- nn.MultiheadAttention


def test_the_two_parts_of_an_attention_share_their_rank(originals, tmp_path):
    folder = originals("attention")[1]
    report = audit_adapter(folder)
    rows = {row.name: row for row in report.layers}
    assert rows["attn"].scale == rows["attn.base_layer.out_proj"].scale == 3 / 5
    pattern = report.rank_pattern()
    assert set(pattern) == {"^attn", "^last"}
    report = compress(folder, tmp_path / "out", ToRank(3))
    assert len({row.new_rank for row in report.modules if "attn" in row.name}) == 1
    with raises(InputError, "shared-rank") as refusal:
        compress(folder, tmp_path / "no", ToBudget(max_params=300))
    assert "attn" in str(refusal.value)
    assert not (tmp_path / "no").exists()


# ---------------------------------------------------------------- experts in tensors of their own


@pytest.fixture(scope="module")
def split_experts(tmp_path_factory):
    """Mixtral as transformers 4 knew it, one module per projection of an expert: PEFT 0.21 stacks them on loading."""
    from factor_samples import random_factors, write

    shapes = {"w1": (6, 24, 16), "w3": (6, 24, 16), "w2": (6, 16, 24)}
    factors = {}
    for layer in range(2):
        for expert in range(3):
            drawn = random_factors(10 * layer + expert, *shapes.values(), decay=0.3 + 0.2 * expert)
            names = [f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}" for part in shapes]
            factors |= dict(zip(names, drawn.values(), strict=True))
    folder = tmp_path_factory.mktemp("split") / "in"
    return write(folder, factors, dtype="F64", target_modules=["w1", "w2", "w3"])


@pytest.mark.parametrize("criterion", [ToRank(2), ToEnergy(0.9), ToBudget(reduction=0.7)], ids=str)
def test_split_experts_are_stacked_by_peft(criterion, split_experts, tmp_path):
    from factor_samples import updates

    report = compress(split_experts, tmp_path / "out", criterion)
    assert report.encoding == ("uniform" if criterion == ToRank(2) else "padded")
    assert report.dropped == ()
    model, messages = load(CASES["experts"], tmp_path / "out")
    assert not any("missing adapter keys" in message for message in messages)
    ours, theirs = updates(tmp_path / "out"), peft_updates(model)
    assert len(theirs) == 12
    for (name, expert), update in theirs.items():
        block = f"model.layers.{name.split('.')[2]}.block_sparse_moe.experts.{expert}"
        parts = ("w1", "w3") if "gate_up" in name else ("w2",)
        assert np.allclose(
            update, np.vstack([ours[f"{block}.{part}"] for part in parts]), rtol=1e-12, atol=1e-14
        )
