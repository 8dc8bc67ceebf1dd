"""Where an adapter may lie, and under which prefixes and names its tensors: each is the same adapter."""

from __future__ import annotations

import os
import shutil

import pytest
from audited import audit, good
from factory import (
    CONFIG,
    INDEX,
    PREFIX,
    WEIGHTS,
    adapter,
    modules,
    ones,
    sharded,
)

Q = "model.layers.0.self_attn.q_proj"


def test_a_trainer_checkpoint(tmp_path, capsys):
    folder = adapter(tmp_path / "checkpoint-100")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"\x80\x02not opened")
    (folder / "trainer_state.json").write_text("version https://git-lfs.github.com/spec/v1")
    good(audit(capsys, folder))


def test_the_only_weights_of_a_folder_may_have_any_name(tmp_path, capsys):
    folder = adapter(tmp_path / "adapter")
    expected = good(audit(capsys, folder)).report
    (folder / WEIGHTS).rename(folder / "Copy of adapter_model.safetensors")
    (folder / "README.md").write_text("mine")
    report = good(audit(capsys, folder)).report
    assert report["layers"] == expected["layers"]
    assert report["adapter"]["sha256"] == expected["adapter"]["sha256"]


@pytest.mark.parametrize("name", ["checkpoint-200", "stage/two"])
def test_an_adapter_by_the_name_of_its_folder(name, tmp_path, capsys):
    adapter(tmp_path / "checkpoint-100", modules(seed=1))
    adapter(tmp_path / "stage" / "two", modules(seed=2))
    expected = good(audit(capsys, adapter(tmp_path / name, modules(seed=3)))).report
    report = good(audit(capsys, tmp_path, "--adapter", name)).report
    assert report["layers"] == expected["layers"]


def test_an_adapter_of_a_dump_by_its_name(tmp_path, capsys):
    def named(adapter_name, seed):
        return {
            key.replace(".weight", f".{adapter_name}.weight"): tensor
            for key, tensor in modules(seed=seed).items()
        }

    both = {**named("a", 1), **named("b", 2), f"{PREFIX}{Q}.lora_magnitude_vector.a.weight": ones(12)}
    for name, seed in (("a", 1), ("b", 2)):
        expected = good(audit(capsys, adapter(tmp_path / name, modules(seed=seed)))).report
        outcome = good(audit(capsys, adapter(tmp_path / "both", both), "--adapter", name))
        assert outcome.report["layers"] == expected["layers"]
        assert outcome.report["adapter"]["adapter_name"] == name
        other = [reason for reason in outcome.other.values() if reason.startswith("another adapter")]
        assert len(other) == (8 if name == "a" else 9)
        # The magnitude of an adapter that is not read says nothing about the one that is.
        assert ("dora" in outcome.codes) == (name == "a")


def test_the_layout_of_the_hub_cache(tmp_path, capsys):
    plain = good(audit(capsys, adapter(tmp_path / "plain"))).report
    cache = tmp_path / "models--org--name"
    for inner in ("", "checkpoint-10"):
        snapshot = cache / "snapshots" / "0123abc" / inner
        snapshot.mkdir(parents=True)
        (cache / "blobs").mkdir(exist_ok=True)
        for name in (WEIGHTS, CONFIG):
            (cache / "blobs" / name[:9]).write_bytes((tmp_path / "plain" / name).read_bytes())
            (snapshot / name).symlink_to(os.path.relpath(cache / "blobs" / name[:9], snapshot))
        assert good(audit(capsys, snapshot)).report["layers"] == plain["layers"]


def test_a_blob_that_repositories_share(tmp_path, capsys):
    """Where huggingface_hub puts what came through Xet, by its own function."""
    store = pytest.importorskip("huggingface_hub.utils._shared_blobs")
    plain = good(audit(capsys, adapter(tmp_path / "plain"))).report
    blob, snapshot = (
        tmp_path / "hub" / "models--org--name" / name for name in ("blobs/0123", "snapshots/0123abc")
    )
    blob.parent.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    shutil.copy(tmp_path / "plain" / WEIGHTS, blob)
    shutil.copy(tmp_path / "plain" / CONFIG, snapshot)
    size, digest = blob.stat().st_size, "0" * 64
    assert store.publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash=digest, cache_dir=str(tmp_path / "hub"), expected_size=size
    )
    assert blob.is_symlink()
    (snapshot / WEIGHTS).symlink_to("../../blobs/0123")
    assert good(audit(capsys, snapshot)).report["layers"] == plain["layers"]


def test_shards_are_one_adapter(tmp_path, capsys):
    whole = good(audit(capsys, adapter(tmp_path / "whole"))).report
    names = list(modules())
    first, second = "adapter_model-00001-of-00002.safetensors", "adapter_model-00002-of-00002.safetensors"
    # The two factors of one module lie in different shards.
    shards = {first: names[:3], second: names[3:]}
    folder = sharded(
        tmp_path / "shards",
        {shard: {name: modules()[name] for name in part} for shard, part in shards.items()},
    )
    for path in (folder, folder / INDEX):
        report = good(audit(capsys, path)).report
        assert report["layers"] == whole["layers"]
        assert report["adapter"]["bytes"] == sum((folder / shard).stat().st_size for shard in shards)


def test_weights_in_one_file_win_over_an_index(tmp_path, capsys):
    folder = adapter(tmp_path)
    (folder / INDEX).write_text("{}")
    good(audit(capsys, folder))
