"""Weights that are no safetensors file, or a broken one."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import factory
from factory import WEIGHTS, Stored, adapter, container, described, modules, safetensors, zeros
from refusals import Cases

CASES = Cases()
refused = CASES.refused
A, B = f"{factory.PREFIX}q_proj.lora_A.weight", f"{factory.PREFIX}q_proj.lora_B.weight"
AGAIN = "download or save the adapter again"


def weights(folder: Path, content: bytes) -> Path:
    return adapter(folder, content)


def one_tensor(folder: Path, entry: object, data: bytes = b"\0" * 16) -> Path:
    """A file whose header describes one tensor as `entry`."""
    return weights(folder, container({A: entry}, data))


def pair() -> dict[str, Stored]:
    return {A: zeros(2, 4), B: zeros(4, 2)}


# ---------------------------------------------------------------- something else under this name


@refused(WEIGHTS, "Git LFS pointer", "13,600,000 bytes", hint=("git lfs pull", "hf download"))
def lfs_pointer(folder):
    return weights(folder, factory.lfs_pointer())


@refused(WEIGHTS, "web page", hint=("hf download", "logged in"))
def html_page(folder):
    return weights(folder, b"\n<!DOCTYPE html><html><title>Sign in</title></html>" + b" " * 3000)


@refused(WEIGHTS, "JSON text", "Repository not found", hint="reports a server's errors")
def json_error_page(folder):
    return weights(folder, json.dumps({"error": "Repository not found", "code": 404}).encode())


@refused(WEIGHTS, "zip archive", "torch.save", hint=("Pickle files can run code", "safe_serialization=True"))
def zip_of_torch_save(folder):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("adapter/data.pkl", factory.pickled(2))
    return weights(folder, content.getvalue())


@refused(WEIGHTS, "Python pickle", hint=("can run code", "save_pretrained"))
def pickle_of_protocol_2(folder):
    return weights(folder, factory.pickled(2))


@refused(WEIGHTS, "tar archive", hint="unpack it")
def tar_archive(folder):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("adapter_model.safetensors")
        member.size = 64
        archive.addfile(member, io.BytesIO(bytes(64)))
    return weights(folder, content.getvalue())


@refused(WEIGHTS, "GGUF file", hint="ends in .gguf")
def gguf_under_the_name_of_safetensors(folder):
    return weights(folder, b"GGUF" + (3).to_bytes(4, "little") + bytes(100))


# ---------------------------------------------------------------- cut off


@refused(WEIGHTS, "empty", hint=AGAIN)
def empty_file(folder):
    return weights(folder, b"")


@refused(WEIGHTS, "truncated", "8 bytes expected", "7 found", hint="hf cache verify")
def seven_bytes(folder):
    return weights(folder, b"\xff" * 7)


@refused(WEIGHTS, "truncated", "bytes expected", hint="download or copy it again")
def truncated_inside_the_data(folder):
    return weights(folder, safetensors(modules())[:-1])


@refused(WEIGHTS, "truncated", "648 bytes expected", hint="download or copy it again")
def truncated_with_a_header_length_that_looks_like_a_pickle(folder):
    # 640 is 0x0280: the file begins with the bytes of a pickle of protocol 2, and is none.
    return weights(folder, (640).to_bytes(8, "little") + b'{"' + b" " * 500)


# ---------------------------------------------------------------- the header


@refused(WEIGHTS, "announce a header of", "not a safetensors file", hint=AGAIN)
def header_too_large(folder):
    return weights(folder, container(b"{}", bytes(100), length=2**63))


@refused(WEIGHTS, "more than 200,000 tensors", hint=AGAIN)
def too_many_tensors(folder):
    entry = b'"%06x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return weights(folder, container(b"{" + b",".join(entry % i for i in range(200_010)) + b"}"))


@refused(WEIGHTS, "header is not valid JSON", "column", hint="download or save it again")
def header_not_json(folder):
    return weights(folder, container(b"{'single': quotes}"))


@refused(WEIGHTS, "header is not UTF-8", hint="UTF-8")
def header_not_utf8(folder):
    return weights(folder, container(b'{"\xff\xfe": 1}'))


@refused(WEIGHTS, "header does not begin with {", hint=AGAIN)
def header_with_a_byte_order_mark(folder):
    return weights(folder, container(b"\xef\xbb\xbf{}"))


@refused(WEIGHTS, "nested too deeply", hint="save it again")
def header_nested_100000_deep(folder):
    return weights(folder, container(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))


@refused(WEIGHTS, "occurs twice", "lora_A", "two readers could take different values", hint="PEFT")
def the_same_tensor_twice(folder):
    first, second = (json.dumps({A: described({A: zeros(2, 2)})[A]})[1:-1] for _ in range(2))
    return weights(folder, container(f"{{{first},{second}}}".encode(), bytes(16)))


@refused(WEIGHTS, "__metadata__ is not a map from strings to strings", hint=AGAIN)
def metadata_with_a_number(folder):
    return weights(folder, safetensors(pair(), {"rank": 4}))


@refused(WEIGHTS, "the header is not a JSON object that describes tensors", hint=AGAIN)
def header_that_is_the_description_of_one_tensor(folder):
    return weights(folder, container({"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, bytes(4)))


# ---------------------------------------------------------------- one tensor's description


@refused(WEIGHTS, A, "exactly dtype, shape and data_offsets", hint=AGAIN)
def tensor_without_offsets(folder):
    return one_tensor(folder, {"dtype": "F32", "shape": [2, 2]})


@refused(WEIGHTS, A, "unknown type 'Q4_K'", hint=("save it in one of", "BF16"))
def unknown_type(folder):
    return one_tensor(folder, {"dtype": "Q4_K", "shape": [2, 2], "data_offsets": [0, 16]})


@refused(WEIGHTS, A, "16 bytes", "needs 24", hint=AGAIN)
def size_that_does_not_fit_the_shape(folder):
    return one_tensor(folder, {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 16]})


@refused(WEIGHTS, A, "shape that is not a list of counts", hint=AGAIN)
def negative_shape(folder):
    return one_tensor(folder, {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]})


@refused(WEIGHTS, A, "9 dimensions", hint=AGAIN)
def nine_dimensions(folder):
    return one_tensor(folder, {"dtype": "F32", "shape": [1] * 8 + [4], "data_offsets": [0, 16]})


@refused(WEIGHTS, A, "data_offsets that are not a pair of counts", hint=AGAIN)
def three_offsets(folder):
    return one_tensor(folder, {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8, 16]})


@refused(WEIGHTS, A, "occupies -16 bytes", hint=AGAIN)
def offsets_the_wrong_way_round(folder):
    return one_tensor(folder, {"dtype": "F32", "shape": [2, 2], "data_offsets": [16, 0]})


@refused(WEIGHTS, "name of 5,0", "1,024", hint=AGAIN)
def name_of_5000_characters(folder):
    return weights(folder, safetensors({"x." * 2500 + "lora_A.weight": zeros(2, 2)}))


# ---------------------------------------------------------------- where the tensors lie


def second_at(folder: Path, begin: int, end: int) -> Path:
    """Two tensors of 32 bytes, the second one said to lie from `begin` to `end`, where the file ends."""
    header = described(pair())
    header[B]["data_offsets"] = [begin, end]
    return weights(folder, container(header, bytes(end)))


@refused(WEIGHTS, "overlap", B, hint="two readers could see different weights")
def overlapping_tensors(folder):
    return second_at(folder, 16, 48)


@refused(WEIGHTS, "leave a gap", B, hint="two readers could see different weights")
def gap_between_tensors(folder):
    return second_at(folder, 40, 72)


@refused(WEIGHTS, "5 bytes after the last tensor", hint="two readers could see different weights")
def trailing_bytes(folder):
    return weights(folder, safetensors(pair()) + b"extra")
