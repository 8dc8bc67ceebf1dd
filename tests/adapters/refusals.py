"""Cases in which the audit refuses its input: how each is made, and the message that the user must get."""

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import factory
import numpy as np
from factory import (
    CONFIG,
    INDEX,
    WEIGHTS,
    Stored,
    adapter,
    container,
    described,
    factors,
    safetensors,
    sharded,
    zeros,
)

Build = Callable[[Path], Path]


class Refusal(NamedTuple):
    """One way in which an input can be unusable.

    build: makes it in an empty folder and returns the path to audit.
    file: name of the file or folder that the message must name.
    says, hint: words of the message and of the hint.   options: further arguments.
    """

    id: str
    build: Build
    file: str
    says: tuple[str, ...]
    hint: tuple[str, ...]
    options: tuple[str, ...] = ()


CASES: list[Refusal] = []


def refused(
    file: str, *says: str, hint: str | tuple[str, ...], options: tuple[str, ...] = ()
) -> Callable[[Build], Build]:
    """The decorated function builds an input that must be refused with these words."""

    def register(build: Build) -> Build:
        hints = (hint,) if isinstance(hint, str) else hint
        CASES.append(Refusal(build.__name__, build, file, says, hints, options))
        return build

    return register


# ---------------------------------------------------------------- Weights


A, B = f"{factory.PREFIX}q_proj.lora_A.weight", f"{factory.PREFIX}q_proj.lora_B.weight"
AGAIN = "download or save the adapter again"


def one_tensor(folder: Path, entry: object, data: bytes = b"\0" * 16) -> Path:
    """A file whose header describes one tensor as `entry`."""
    return adapter(folder, container({A: entry}, data))


def pair() -> dict[str, Stored]:
    return {A: zeros(2, 4), B: zeros(4, 2)}


FILES: dict[str, tuple[bytes, tuple[str, ...], tuple[str, ...]]] = {
    # name: (content, words of the message, words of the hint)
    "lfs_pointer": (
        factory.lfs_pointer(), ("Git LFS pointer", "13,600,000 bytes"), ("git lfs pull", "hf download")
    ),
    "html_page": (b"\n<!DOCTYPE html><html>" + b" " * 3000, ("web page",), ("hf download", "logged in")),
    "json_error_page": (
        b'{"error": "Repository not found", "code": 404}',
        ("not a safetensors file", "Repository not found"), (AGAIN,),
    ),
    "gguf_under_the_name_of_safetensors": (b"GGUF\3" + bytes(103), ("GGUF file",), ("ends in .gguf",)),
    "empty_file": (b"", ("empty",), (AGAIN,)),
    # 640 is 0x0280: the file begins with the bytes of a pickle of protocol 2, and is none.
    "truncated_with_a_header_length_that_looks_like_a_pickle": (
        (640).to_bytes(8, "little") + b'{"' + b" " * 500,
        ("truncated", "648 bytes expected"), ("download or copy it again",),
    ),
    "header_too_large": (container(b"{}", bytes(100), length=2**63), ("not a safetensors file",), (AGAIN,)),
    "header_not_json": (
        container(b"{'single': quotes}"), ("header is not strict JSON", "column"), ("save it again",)
    ),
    "header_not_utf8": (
        container(b'{"\xff\xfe": 1}'), ("header is not strict JSON in UTF-8", "byte 0xff"), ("save it again",)
    ),
    "header_nested_100000_deep": (
        container(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), ("nested too deeply",), ("save it again",)
    ),
    "header_that_is_the_description_of_one_tensor": (
        container({"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, bytes(4)),
        ("tensor 'dtype' does not have exactly dtype, shape and data_offsets",), (AGAIN,),
    ),
    "name_of_5000_characters": (
        safetensors({"x." * 2500 + "lora_A.weight": zeros(2, 2)}), ("name of more than 1,024 characters",), (AGAIN,)
    ),
    "trailing_bytes": (
        safetensors(pair()) + b"extra",
        ("5 bytes after the last tensor",), ("two readers could see different weights",),
    ),
}  # fmt: skip
for name, (content, says, hints) in FILES.items():
    CASES.append(Refusal(name, partial(adapter, tensors=content), WEIGHTS, says, hints))


@refused(WEIGHTS, "zip archive", "torch.save", hint=("Pickle files can run code", "--allow-pickle"))
def zip_of_torch_save(folder):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("adapter/data.pkl", factory.pickled(2))
    return adapter(folder, content.getvalue())


@refused(WEIGHTS, "not a safetensors file", "adapter_model.safetensors", hint=AGAIN)
def tar_archive(folder):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("adapter_model.safetensors")
        member.size = 64
        archive.addfile(member, io.BytesIO(bytes(64)))
    return adapter(folder, content.getvalue())


# ---------------------------------------------------------------- the header


@refused(WEIGHTS, "more than 200,000 tensors", hint=AGAIN)
def too_many_tensors(folder):
    entry = b'"%06x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return adapter(folder, container(b"{" + b",".join(entry % i for i in range(200_010)) + b"}"))


@refused(WEIGHTS, "occurs twice", "lora_A", "two readers could take different values", hint="PEFT")
def the_same_tensor_twice(folder):
    first, second = (json.dumps({A: described({A: zeros(2, 2)})[A]})[1:-1] for _ in range(2))
    return adapter(folder, container(f"{{{first},{second}}}".encode(), bytes(16)))


# ---------------------------------------------------------------- one tensor's description


@refused(WEIGHTS, A, "exactly dtype, shape and data_offsets", hint=AGAIN)
def tensor_without_offsets(folder):
    return one_tensor(folder, {"dtype": "F32", "shape": [2, 2]})


@refused(WEIGHTS, A, "unknown type 'Q4_K'", hint=("save it in one of", "BF16"))
def unknown_type(folder):
    return one_tensor(folder, {"dtype": "Q4_K", "shape": [2, 2], "data_offsets": [0, 16]})


FIELDS: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "size_that_does_not_fit_the_shape": ({"shape": [2, 3]}, ("16 bytes", "needs 24")),
    "negative_shape": ({"shape": [-2, -2]}, ("shape that is not a list of at most 8 counts",)),
    "nine_dimensions": ({"shape": [1] * 8 + [4]}, ("not a list of at most 8 counts",)),
    "three_offsets": ({"data_offsets": [0, 8, 16]}, ("data_offsets that are not a pair of counts",)),
    "offsets_the_wrong_way_round": ({"data_offsets": [16, 0]}, ("occupies -16 bytes",)),
}
for name, (changed, says) in FIELDS.items():
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changed
    CASES.append(Refusal(name, partial(one_tensor, entry=entry), WEIGHTS, (A, *says), (AGAIN,)))


# ---------------------------------------------------------------- where the tensors lie


def second_at(folder: Path, begin: int, end: int) -> Path:
    """Two tensors of 32 bytes, the second one said to lie from `begin` to `end`, where the file ends."""
    header = described(pair())
    header[B]["data_offsets"] = [begin, end]
    return adapter(folder, container(header, bytes(end)))


@refused(WEIGHTS, "overlap", B, hint="two readers could see different weights")
def overlapping_tensors(folder):
    return second_at(folder, 16, 48)


@refused(WEIGHTS, "leave a gap", B, hint="two readers could see different weights")
def gap_between_tensors(folder):
    return second_at(folder, 40, 72)


# ---------------------------------------------------------------- Other tools and methods


MODULE = "model.layers.0.self_attn.q_proj"


def factors_of(module: str, first: str, second: str, *, m: int = 8, n: int = 8) -> dict[str, Stored]:
    """Factors of rank 4 under another format's names."""
    return {f"{module}.{first}.weight": zeros(4, n), f"{module}.{second}.weight": zeros(m, 4)}


def file(folder: Path, name: str, content: bytes | dict[str, Stored], metadata: object = None) -> Path:
    """A single file and nothing beside it."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else safetensors(content, metadata))
    return path


def named(**shapes: tuple[int, ...]) -> dict[str, Stored]:
    return {name: zeros(*shape) for name, shape in shapes.items()}


# ---------------------------------------------------------------- pickles


@refused("adapter_model.bin", "pickle", hint=("can run code", "--allow-pickle"))
def folder_with_bin(folder):
    (folder / CONFIG).write_text(json.dumps(factory.config()))
    (folder / "adapter_model.bin").write_bytes(factory.pickled(2))
    return folder


@refused("weights.ckpt", "pickle", hint="can run code")
def single_ckpt(folder):
    return file(folder, "weights.ckpt", factory.pickled(4))


# ---------------------------------------------------------------- image models


KOHYA = "lora_unet_down_blocks_0_attentions_0_proj_in"


def kohya(alpha: Stored) -> dict[str, Stored]:
    shapes = {f"{KOHYA}.lora_down.weight": (4, 8, 1, 1), f"{KOHYA}.lora_up.weight": (8, 4, 1, 1)}
    return named(**shapes) | {f"{KOHYA}.alpha": alpha}


@refused("style.safetensors", "alpha is not a single usable number", hint="its scale is")
def kohya_alpha_that_is_no_number(folder):
    return file(folder, "style.safetensors", kohya(factory.stored(np.array(np.nan, np.float32))))


@refused("lokr.safetensors", "LoKr", hint=("save_as_lora", "LyCORIS"))
def kohya_lokr(folder):
    name = "lora_unet_input_blocks_1_1_proj_in"
    shapes = {f"{name}.lokr_w1": (4, 4), f"{name}.lokr_w2_a": (8, 2), f"{name}.lokr_w2_b": (2, 8)}
    return file(folder, "lokr.safetensors", named(**shapes) | {f"{name}.alpha": zeros()})


UNET = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@refused(str(WEIGHTS), "tensors of kohya, diffusers or MLX-LM", hint="rename the file")
def diffusers_under_the_name_of_peft(folder):
    return file(folder, str(WEIGHTS), factors_of(UNET, "lora_A", "lora_B"))


@refused("new.safetensors", "lora_alpha is", hint="with PEFT")
def diffusers_config_with_a_word_for_a_number(folder):
    config = '{"unet.r": 4, "unet.lora_alpha": "much"}'
    return file(
        folder, "new.safetensors", factors_of(UNET, "lora_A", "lora_B"), {"lora_adapter_metadata": config}
    )


@refused("pytorch_lora_weights.safetensors", "no LoRA factors", hint="weights were lost")
def diffusers_without_factors(folder):
    return file(folder, "pytorch_lora_weights.safetensors", {"unet.conv_in.bias": zeros(4)}).parent


# ---------------------------------------------------------------- other trainers of language models


@refused("adapter_0.safetensors", "no LoRA factors among its 2 tensors", hint="export it to PEFT's format")
def torchtune_file(folder):
    return file(
        folder, "adapter_0.safetensors", factors_of("layers.0.attn.q_proj", "lora_a", "lora_b", m=12, n=16)
    )


@refused(str(WEIGHTS), "contains weights of AdaLoRA, not LoRA", hint="only LoRA adapters")
def adalora_tensors_under_a_lora_config(folder):
    name = f"{factory.PREFIX}{MODULE}"
    tensors = named(**{f"{name}.lora_A": (12, 16), f"{name}.lora_B": (12, 12), f"{name}.lora_E": (12, 1)})
    return adapter(folder, tensors) / WEIGHTS


@refused("prompt_tuning_tensors", "prompt tuning", hint="only LoRA")
def prompt_tuning_tensors(folder):
    return adapter(folder, {"prompt_embeddings": zeros(8, 16)})


# ---------------------------------------------------------------- no adapter at all


@refused("full_model_folder", "a full model (model.safetensors)", hint="which contains adapter_config.json")
def full_model_folder(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')
    file(folder, "model.safetensors", {"model.embed_tokens.weight": zeros(16, 8)})
    return folder


@refused("model.safetensors", "a full model?", hint="point at the adapter's folder")
def full_model_file(folder):
    tensors = {"model.embed_tokens.weight": zeros(16, 8), "model.norm.weight": zeros(8)}
    return file(folder, "model.safetensors", tensors)


@refused("only_a_config", "adapter_config.json but no adapter_model.safetensors", hint="save_pretrained()")
def only_a_config(folder):
    (folder / CONFIG).write_text(json.dumps(factory.config()))
    return folder


@refused(
    "home_made",
    "no LoRA factors among its 4 tensors (the first is 'w_a_000')",
    hint="save it again with PEFT",
)
def home_made(folder):
    return adapter(folder, named(w_a_000=(4, 16), w_b_000=(12, 4), w_a_001=(4, 16), w_b_001=(12, 4)))


@refused("scalars.safetensors", "606 of them scalars", hint="LoRA weights were lost")
def scalars(folder):
    return file(folder, "scalars.safetensors", {f"layer.{i}.weight": zeros() for i in range(606)})


@refused("no_tensors_at_all", "contains no tensors", hint=("ZeRO-3", "gather"))
def no_tensors_at_all(folder):
    # The 40 bytes that a ZeRO-3 save leaves: a header with metadata and nothing else.
    return adapter(folder, safetensors({}, {"format": "pt"}))


# ---------------------------------------------------------------- MLX-LM and GGUF


def gguf(folder: Path, content: bytes = b"", *, settings: tuple[tuple[str, str], ...] = ()) -> Path:
    """A GGUF file with settings that are texts, and no tensor; or with this content behind its first four bytes."""
    texts = [text.encode() for setting in settings for text in setting]
    packed = [len(text).to_bytes(8, "little") + text for text in texts]
    header = (3).to_bytes(4, "little") + bytes(8) + len(settings).to_bytes(8, "little")
    pairs = (
        key + (8).to_bytes(4, "little") + value for key, value in zip(packed[::2], packed[1::2], strict=True)
    )
    return file(folder, "adapter.gguf", b"GGUF" + (content or header + b"".join(pairs) + bytes(64)))


@refused("adapter.gguf", "its header ends at byte 9", hint="convert_lora_to_gguf.py")
def gguf_cut_off(folder):
    return gguf(folder, b"12345").parent


@refused("adapter.gguf", "a GGUF model, not an adapter", hint="GGUF file of the adapter")
def gguf_model(folder):
    return gguf(folder, settings=(("general.type", "model"),))


@refused("adapter.gguf", "an adapter of the type 'other'", hint="only LoRA")
def gguf_of_another_method(folder):
    return gguf(folder, settings=(("general.type", "adapter"), ("adapter.type", "other")))


def mlx(folder: Path, settings: object = None, name: str = "adapters.safetensors") -> Path:
    """A folder of MLX-LM; `settings` is its config."""
    tensors = {f"{MODULE}.lora_a": zeros(16, 4), f"{MODULE}.lora_b": zeros(4, 12)}
    (folder / name).write_bytes(safetensors(tensors))
    if settings is not None:
        (folder / CONFIG).write_text(json.dumps(settings))
    return folder


@refused(CONFIG, "lora_parameters.scale is much", hint="with mlx-lm")
def mlx_scale_that_is_a_word(folder):
    return mlx(folder, {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": "much"}})


@refused(CONFIG, "a PEFT config beside MLX-LM weights", hint="that mlx-lm wrote")
def mlx_weights_and_a_config_of_peft(folder):
    return mlx(folder, factory.config())


@refused("mlx_checkpoints", "2 checkpoints of MLX-LM", hint="--adapter 0001000_adapters.safetensors")
def mlx_checkpoints(folder):
    mlx(folder, name="0000200_adapters.safetensors")
    return mlx(folder, name="0001000_adapters.safetensors")


@refused("mlx_factors_in_the_file_of_peft", "the name of PEFT's weights", hint="adapters.safetensors")
def mlx_factors_in_the_file_of_peft(folder):
    tensors = {f"{MODULE}.lora_a": zeros(16, 4), f"{MODULE}.lora_b": zeros(4, 12)}
    return adapter(folder, tensors)


@refused("adapters.npz", "no adapter here", "the folder contains adapters.npz", hint="the .safetensors file")
def arrays_of_mlx(folder):
    np.savez(folder / "adapters.npz", lora_a=np.zeros((16, 4), np.float32))
    return folder


# ---------------------------------------------------------------- Paths, folders, links and pipes


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


@refused("/dev/zero", "not a regular file", hint="point at")
def device(folder):
    return Path("/dev/zero")


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


@refused("run", "no adapter called '../secret'", hint="--adapter one", options=("--adapter", "../secret"))
def name_that_leads_out_of_the_folder(folder):
    adapter(folder / "secret")
    adapter(folder / "run" / "one")
    return folder / "run"


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


# ---------------------------------------------------------------- what leads nowhere is not advised


def bare(folder: Path, config: object, **files: bytes) -> Path:
    """A folder with a config and other files than adapter weights; `__` stands for a dot."""
    (folder / CONFIG).write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


@refused(CONFIG, "IA3", hint="only LoRA")
def ia3_as_a_pickle(folder):
    """Saving it again as safetensors, the advice for a pickle, would end in a refusal."""
    return bare(folder, {"peft_type": "IA3"}, adapter_model__bin=b"\x80\x02")


@refused(CONFIG, "the config of an MLX-LM adapter", hint="rename the weights to adapters.safetensors")
def weights_of_an_unknown_name_beside_a_config_of_mlx(folder):
    return bare(folder, {"fine_tune_type": "lora"}, weights__safetensors=b"x")


@refused("lora.safetensors", "a Git LFS pointer of a file of 4,242 bytes", hint="git lfs pull")
def lfs_pointer_of_another_name(folder):
    (folder / "lora.safetensors").write_bytes(factory.lfs_pointer(4242))
    (folder / "README.md").write_text("a LoRA")
    return folder


# ---------------------------------------------------------------- Shards and indices that do not fit together


FIRST, SECOND = "adapter_model-00001-of-00002.safetensors", "adapter_model-00002-of-00002.safetensors"


def in_two(folder: Path, index: object = None) -> Path:
    return sharded(folder, {FIRST: factors("a.q_proj"), SECOND: factors("b.q_proj")}, index)


def pointing(folder: Path, **changes: str) -> Path:
    """Two shards, and an index that says `changes` about the factors of `a.q_proj` (A, B)."""
    where = dict.fromkeys(factors("a.q_proj"), FIRST) | dict.fromkeys(factors("b.q_proj"), SECOND)
    for side, shard in changes.items():
        where[f"{factory.PREFIX}a.q_proj.lora_{side}.weight"] = shard
    return in_two(folder, {"weight_map": where})


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


# ---------------------------------------------------------------- configs that are something else, broken, or lie


SAVE = "save the adapter again with PEFT"
RANK, NUMBER = "not an integer from 1 to 65536", "not 0, or a number between 1e-30"


def replaced(name: str, literal: str) -> bytes:
    """A config in which the value of `name` is a piece of text that json.dumps would not write."""
    return json.dumps(factory.config(**{name: "@"})).replace('"@"', literal).encode()


CONFIGS: dict[str, tuple[object, tuple[str, ...], str]] = {
    # name: (fields or bytes of the file, words of the message, words of the hint)
    # Something else under this name.
    "json_error_page_as_config": (
        b'{"error": "Not found"}', ("not a PEFT adapter config", '{"error": "Not found"}'), "audit only the weights"
    ),
    "mlx_config": (
        b'{"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8}}',
        ("MLX-LM adapter", "fine_tune_type"), "rename the weights to adapters.safetensors",
    ),
    "ia3_config": (
        b'{"peft_type": "IA3", "target_modules": ["k"], "feedforward_modules": []}', ("IA3",), "only LoRA"
    ),
    # No strict JSON.
    "config_cut_off": (json.dumps(factory.config()).encode()[:-20], ("not strict JSON", "line 1"), "save it again"),
    "the_same_field_twice": (replaced("r", '4, "r": 64'), ("'r' occurs twice",), "PEFT"),
    "config_nested_100_deep": (
        replaced("target_modules", "[" * 100 + "]" * 100), ("nested too deeply",), "save it again"
    ),
    "config_of_17_megabytes": (
        json.dumps(factory.config()).encode() + b" " * 17 * 2**20, ("(limit: 16,777,216)",), "save this file again"
    ),
    # r and alpha.
    "r_huge": (factory.config(r=10**9), ("r is 1000000000", RANK), SAVE),
    "r_as_text": (factory.config(r="16"), ('r is "16"', RANK), SAVE),
    "r_nan": (replaced("r", "NaN"), ("NaN is not a JSON number",), "PEFT"),
    "r_of_5000_digits": (replaced("r", "9" * 5000), ("a number of 5,000 characters",), "PEFT"),
    "alpha_1e999": (replaced("lora_alpha", "1e999"), ("1e999 is beyond the largest number",), "PEFT"),
    "alpha_1e_320": (factory.config(lora_alpha=1e-320), (f"lora_alpha is 1e-320, {NUMBER}",), SAVE),
    # Patterns and the rest.
    "rank_pattern_as_a_list": (
        factory.config(rank_pattern=["q_proj"]), ("rank_pattern is", "not a map from module names to numbers"), SAVE
    ),
    "alpha_pattern_with_null": (
        factory.config(alpha_pattern={"q_proj": None}), ('alpha_pattern["q_proj"] is null', f"{NUMBER} and 1e+12"), SAVE
    ),
    "target_modules_with_a_number": (
        factory.config(target_modules=["q_proj", 7]), ("target_modules is", "not a list of names"), SAVE
    ),
}  # fmt: skip
for name, (settings, says, hint) in CONFIGS.items():
    CASES.append(Refusal(name, partial(adapter, settings=settings), CONFIG, says, (hint,)))
