"""Digests: what was written by an earlier version must be found equal by a later one."""

import hashlib
import re
from pathlib import Path

from gradience import digests
from gradience.digests import sha256_file, sha256_json, sha256_parts, sha256_rows, sha256_text


def plain(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_every_digest_is_sha256_of_these_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"ab" * 2**20)
    assert sha256_file(path) == plain(b"ab" * 2**20)
    assert sha256_parts(iter([b"a", bytearray(b"b")])) == sha256_text("ab") == plain(b"ab")
    assert sha256_json({"b": "σ", "a": [1, None]}) == plain('{"a":[1,null],"b":"σ"}'.encode())
    assert sha256_rows([("σ", 1), (None,)]) == plain('["σ", 1]\n[null]\n'.encode())
    assert sha256_rows([]) == plain(b"")


def test_nothing_else_hashes():
    home = Path(digests.__file__)
    others = set(home.parent.rglob("*.py")) - {home}
    assert not [path for path in others if re.search(r"\bhashlib\b", path.read_text(encoding="utf-8"))]
