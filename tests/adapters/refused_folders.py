"""Paths, folders, links, pipes, shards and names that cannot be followed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import factory
from factory import CONFIG, WEIGHTS, adapter, modules, safetensors
from refusals import Cases

CASES = Cases()
refused = CASES.refused


def without(folder: Path, name: str) -> Path:
    """The path of a file that an adapter in `folder` has, and that is gone."""
    path = adapter(folder) / name
    path.unlink()
    return path


def linked(folder: Path, name: str, target: str) -> Path:
    """An adapter whose file `name` is a link."""
    without(folder / "adapter", name).symlink_to(target)
    return folder / "adapter"


# ---------------------------------------------------------------- paths


@refused("absent", "no such file or folder", hint=("check the path", "org/name"))
def absent(folder):
    return folder / "absent"


@refused("empty_folder", "the folder is empty", hint="check the path")
def empty_folder(folder):
    return folder


@refused(
    "folder_with_other_files", "neither adapter_model.safetensors nor", "notes.txt", hint="save_pretrained()"
)
def folder_with_other_files(folder):
    (folder / "notes.txt").write_text("nothing")
    return folder


@refused(WEIGHTS, "not a regular file", hint="point at")
def fifo_as_weights(folder):
    os.mkfifo(without(folder, WEIGHTS))
    return folder


@refused(CONFIG, "not a regular file", hint="point at")
def fifo_as_config(folder):
    os.mkfifo(without(folder, CONFIG))
    return folder


@refused("/dev/zero", "not a regular file", hint="point at")
def device(folder):
    return Path("/dev/zero")


@refused(WEIGHTS, "not a regular file (a folder", hint="point at")
def folder_as_weights(folder):
    without(folder, WEIGHTS).mkdir()
    return folder


# ---------------------------------------------------------------- links


@refused(
    WEIGHTS, "symbolic link that leaves the adapter's folder", "outside.safetensors", hint="copy the file"
)
def weights_linked_from_outside(folder):
    inner = adapter(folder / "adapter")
    (inner / WEIGHTS).rename(folder / "outside.safetensors")
    (inner / WEIGHTS).symlink_to("../outside.safetensors")
    return inner


@refused(WEIGHTS, "symbolic link that leaves the adapter's folder", hint="copy the file")
def link_to_a_blobs_folder_that_is_no_cache(folder):
    inner = adapter(folder / "adapter" / "snapshot")
    (folder / "blobs").mkdir()
    (inner / WEIGHTS).rename(folder / "blobs" / "digest")
    (inner / WEIGHTS).symlink_to("../../blobs/digest")
    return inner


@refused(CONFIG, "symbolic link that leaves", hint="copy the file", options=("--adapter", "inner"))
def adapter_by_name_that_is_a_link_out_of_the_folder(folder):
    adapter(folder / "elsewhere")
    (folder / "run").mkdir()
    (folder / "run" / "inner").symlink_to("../elsewhere")
    return folder / "run"


@refused(WEIGHTS, "symbolic link to gone.safetensors, which does not exist", hint="download it again")
def dangling_link_as_weights(folder):
    without(folder, WEIGHTS).symlink_to("gone.safetensors")
    return folder


@refused(WEIGHTS, "form a loop", hint="replace the link")
def links_in_a_circle(folder):
    without(folder, WEIGHTS).symlink_to("other")
    (folder / "other").symlink_to(WEIGHTS)
    return folder


# ---------------------------------------------------------------- several adapters


@refused("run", "contains 3 adapters", "checkpoint-9, checkpoint-10", hint="--adapter checkpoint-9")
def several_adapters_in_a_folder(folder):
    for step in (10, 9, 100):
        adapter(folder / "run" / f"checkpoint-{step}")
    return folder / "run"


@refused("outer", "adapter found in inner/adapter", hint="inner/adapter")
def adapter_two_folders_deeper(folder):
    adapter(folder / "outer" / "inner" / "adapter")
    return folder / "outer"


@refused("run", "no adapter called '../secret'", hint="--adapter one", options=("--adapter", "../secret"))
def name_that_leads_out_of_the_folder(folder):
    adapter(folder / "secret")
    adapter(folder / "run" / "one")
    return folder / "run"


def two_in_one_file(folder: Path) -> Path:
    tensors = {}
    for name in ("ranking", "reward"):
        for key, tensor in modules(1, seed=len(name)).items():
            tensors[key.replace(".weight", f".{name}.weight")] = tensor
    (folder / "dump.safetensors").write_bytes(safetensors(tensors))
    return folder / "dump.safetensors"


@refused("dump.safetensors", "contains 2 adapters in one file: ranking, reward", hint="--adapter ranking")
def several_adapters_in_a_file(folder):
    return two_in_one_file(folder)


# ---------------------------------------------------------------- names that want to be more than names


@refused("a\\x1b[2J\\u202eb[/]<script>", "no such file or folder", hint="check the path")
def hostile_path(folder):
    return folder / "a\x1b[2J\u202eb[/]<script>"


@refused("bytes\\udcff", "no such file or folder", hint="check the path")
def path_that_is_no_utf8(folder):
    return folder / os.fsdecode(b"bytes\xff")


@refused(WEIGHTS, "tensor 'q\\x1b[31m[bold]<b>\\u202e'", "unknown type", hint="save it in one of")
def hostile_tensor_name(folder):
    entry = {"dtype": "X", "shape": [0], "data_offsets": [0, 0]}
    return adapter(folder, factory.container({"q\x1b[31m[bold]<b>\u202e": entry}))


@refused(CONFIG, "the PEFT method", "\\x1b", hint="only LoRA")
def hostile_method_name(folder):
    return adapter(folder, settings=factory.config(peft_type="X\x1b[2J"))


@refused("several", "\\x1b[2Jx", hint="--adapter")
def hostile_folder_names(folder):
    for name in ("\x1b[2Jx", "y"):
        adapter(folder / "several" / name)
    return folder / "several"


# ---------------------------------------------------------------- what leads nowhere is not advised


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4242\n"


def bare(folder: Path, config: object, **files: bytes) -> Path:
    """A folder with a config and other files than adapter weights; `__` stands for a dot."""
    (folder / CONFIG).write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


@refused(CONFIG, "IA3", hint="merge_and_unload")
def ia3_as_a_pickle(folder):
    """Saving it again as safetensors, the advice for a pickle, would end in a refusal."""
    return bare(folder, {"peft_type": "IA3"}, adapter_model__bin=b"\x80\x02")


@refused(CONFIG, "the config of an MLX-LM adapter", hint="rename the weights to adapters.safetensors")
def weights_of_an_unknown_name_beside_a_config_of_mlx(folder):
    return bare(folder, {"fine_tune_type": "lora"}, weights__safetensors=b"x")


@refused("lora.safetensors", "a Git LFS pointer of a file of 4,242 bytes", hint="git lfs pull")
def lfs_pointer_of_another_name(folder):
    (folder / "lora.safetensors").write_bytes(POINTER)
    (folder / "README.md").write_text("a LoRA")
    return folder


@refused(
    "several_names",
    "no adapter here",
    "one.safetensors, two.safetensors",
    hint="the .safetensors file itself",
)
def weights_of_several_names(folder):
    for name in ("one", "two"):
        adapter(folder / "several_names")
        (folder / "several_names" / WEIGHTS).rename(folder / "several_names" / f"{name}.safetensors")
    return folder / "several_names"
