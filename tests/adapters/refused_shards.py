"""Shards and indices that do not fit together."""

from __future__ import annotations

import shutil
from pathlib import Path

import factory
from factory import INDEX, factors, sharded
from refusals import Cases

CASES = Cases()
refused = CASES.refused
FIRST, SECOND = "adapter_model-00001-of-00002.safetensors", "adapter_model-00002-of-00002.safetensors"


def in_two(folder: Path, index: object = None) -> Path:
    return sharded(folder, {FIRST: factors("a.q_proj"), SECOND: factors("b.q_proj")}, index)


def pointing(folder: Path, **changes: str) -> Path:
    """Two shards, and an index that says `changes` about the factors of `a.q_proj` (A, B)."""
    where = dict.fromkeys(factors("a.q_proj"), FIRST) | dict.fromkeys(factors("b.q_proj"), SECOND)
    for side, shard in changes.items():
        where[f"{factory.PREFIX}a.q_proj.lora_{side}.weight"] = shard
    return in_two(folder, {"weight_map": where})


@refused(INDEX, "Git LFS pointer", hint="git lfs pull")
def lfs_pointer_as_index(folder):
    (in_two(folder) / INDEX).write_bytes(factory.lfs_pointer())
    return folder


@refused(INDEX, "it has no weight_map", hint="download or save the adapter again")
def index_without_a_map(folder):
    return in_two(folder, {"metadata": {}})


@refused(INDEX, "lora_A", '"../outside.safetensors", which is not a file name in this folder', hint="again")
def shard_outside_the_folder(folder):
    return pointing(folder, A="../outside.safetensors")


@refused(INDEX, SECOND, "is missing", hint="download or save the adapter again")
def missing_shard(folder):
    (in_two(folder) / SECOND).unlink()
    return folder


@refused("tensor_in_the_wrong_shard", "index and the shards disagree", "a.q_proj.lora_B", hint="download")
def tensor_in_the_wrong_shard(folder):
    return pointing(folder, B=SECOND)


@refused(
    "tensor_that_the_index_forgets", "disagree about tensor", "b.q_proj.lora_A", hint="exactly the shard"
)
def tensor_that_the_index_forgets(folder):
    where = dict.fromkeys(factors("a.q_proj"), FIRST) | {f"{factory.PREFIX}b.q_proj.lora_B.weight": SECOND}
    return in_two(folder, {"weight_map": where})


@refused("tensor_in_two_shards", "disagree about tensor", hint="exactly the shard")
def tensor_in_two_shards(folder):
    both = factors("a.q_proj") | factors("b.q_proj")
    return sharded(folder, {FIRST: factors("a.q_proj") | factors("c.q_proj"), SECOND: both})


@refused(SECOND, "symbolic link that leaves", hint="copy the file")
def shard_linked_from_outside(folder):
    inner = in_two(folder / "adapter")
    shutil.move(inner / SECOND, folder / "outside.safetensors")
    (inner / SECOND).symlink_to("../outside.safetensors")
    return inner
