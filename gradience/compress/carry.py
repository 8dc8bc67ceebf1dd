"""The other files of an adapter's folder: carried over, but for what describes or is the old weights.

The model card describes the original, and a block of ours on top of it says so.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from gradience.adapters.files import PICKLE_STARTS
from gradience.adapters.locate import CONFIG, INDEX, WEIGHTS, Location
from gradience.errors import InputError, UsageError
from gradience.files.card import CARD, Card, read_card, without_block, write_card
from gradience.reading import MAX_DATA_BYTES, open_regular, pread, pread_blocks
from gradience.reports.base.numbers import percent
from gradience.reports.compression import CompressionReport, ModuleResult
from gradience.words import counted, listed

PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
"""Suffixes of pickles: opening them can run code, and they hold weights of the old shapes or training state."""
ARCHIVE_START = b"PK\x03\x04"
"""First bytes of a zip archive, in which torch.save puts pickles."""
PICKLED_BINS = ("adapter_model", "pytorch_model", "training_args", "optimizer", "scheduler", "scaler")
"""First parts of the names of pickles that end in .bin."""
REPORT, DOCUMENT, DISTILL_REPORT = "compression_report.json", "compression_report.md", "distill_report.json"
REPORTS = (REPORT, DOCUMENT, DISTILL_REPORT)
OPENING = "> **A smaller approximation of another adapter.**"
TRAINING = ("training", "trainer_", "train_results", "eval_results", "all_results")
"""First parts of the names of JSON files about the training of the old weights, transformers' among them."""
COPIED_CARD = """## Copied card: not about these weights

The text below was copied with the files of the reference adapter. Its ranks, scores, checksums and statements about \
test data do not apply to this adapter."""
"""The last lines of a block, if a card was copied: the text below the block belongs to this heading."""


def carry_files(location: Location, target: Path, pickle: Path | None = None) -> tuple[list[str], list[str]]:
    """Copy the files beside the weights of an adapter; names of the copied ones and of those left out.

    Neither: the weights, or the pickle that they were read from, and the config, which the caller writes. Left out are
    pickles (training state and weights of the old shapes among them), zip archives, reports of the training or of an
    earlier compression or distillation, sub-folders, hidden files, pipes, links that lead elsewhere, and what is larger
    than `MAX_DATA_BYTES`.
    Raises InputError for a file that cannot be read.
    """
    carried, left = [], []
    folder = location.weights[0].parent if location.sub_folder else location.root
    sources = (*location.weights, *filter(None, [location.config, pickle]))
    ours = {CONFIG, INDEX, WEIGHTS, *(path.name for path in sources)}
    for entry in sorted(folder.iterdir()):
        if entry.name in ours:
            continue
        if _carries(entry) and _copy(entry, target / entry.name, root=location.root):
            carried.append(entry.name)
        else:
            left.append(entry.name + "/" if entry.is_dir() else entry.name)
    return carried, left


def names_beside(source: Path) -> list[str]:
    """Return the files in an adapter's folder, or beside its single file; empty for a name on the hub."""
    folder = source.parent if source.is_file() else source
    return os.listdir(folder) if folder.is_dir() else []


def refuse_foreign_files(old: Path, kept: Iterable[str]) -> None:
    """Raise UsageError (not-ours) if the folder `old` holds a file that would be deleted with it and is not ours.

    kept: names that the new folder has. Gradience's own are the adapter's files and the additions of an earlier
    compression.
    """
    if not old.is_dir():
        return
    ours = {CONFIG, WEIGHTS, *REPORTS, *kept}
    with suppress(InputError):
        report = CompressionReport.read(old / REPORTS[0])
        ours |= {*report.carried_files, *report.annotated_files}
    with suppress(InputError):
        if not without_block(read_card(old)).strip():
            ours.add(CARD)
    foreign = sorted(entry.name for entry in old.iterdir() if entry.name not in ours)
    if foreign:
        raise UsageError(
            f"{old}: contains {listed(foreign)}, which --force would delete",
            code="not-ours",
            hint="move these files elsewhere, or choose another --output",
        )


def _carries(entry: Path) -> bool:
    name = entry.name
    return entry.is_file() and not (
        name.startswith(".")
        or name.lower().endswith(PICKLE_SUFFIXES)
        or (name.startswith(PICKLED_BINS) and name.endswith(".bin"))
        or name in REPORTS
        or (name.startswith(TRAINING) and name.endswith((".json", ".jsonl")))
        or name.endswith("adapters.safetensors")  # checkpoints of MLX-LM, at the old ranks
        or (name.startswith("adapter_model") and name.endswith((".safetensors", ".safetensors.index.json")))
    )


def _copy(source: Path, target: Path, *, root: Path) -> bool:
    """False for a link that leads out of `root`, a pickle or archive, or a file too large to belong to an adapter."""
    try:
        handle = open_regular(source, root=root, limit=MAX_DATA_BYTES)
    except InputError as error:
        if error.code in ("symlink-outside", "too-large"):
            return False
        raise
    try:
        size = os.fstat(handle).st_size
        if pread(handle, min(4, size), 0, source).startswith((*PICKLE_STARTS, ARCHIVE_START)):
            return False
        with open(target, "xb") as copy:
            for block in pread_blocks(handle, size, 0, source):
                copy.write(block)
    finally:
        os.close(handle)
    return True


def files_to_publish(folder: Path) -> tuple[str, ...]:
    """Return the names of the files in an adapter's folder that may go to a hub: no pickle, link or hidden file."""
    return tuple(
        path.name
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.is_symlink()
        and not path.name.startswith(".")
        and not path.name.lower().endswith((*PICKLE_SUFFIXES, ".bin"))
    )


# ---------------------------------------------------------------- the model card


def annotate(folder: Path, opening: str) -> tuple[str, ...]:
    """Put `opening` above the copied card in `folder` and return its name in a tuple, empty without a card."""
    if not (folder / CARD).is_file():
        return ()
    write_card(folder, Card(f"{opening}\n\n{COPIED_CARD}"))
    return (CARD,)


def compressed_opening(rows: Sequence[ModuleResult], error: float, strength: float) -> str:
    """Return the card's first block for an adapter compressed to `rows` with this relative error."""

    def span(ranks: Sequence[int]) -> str:
        low, high = min(ranks), max(ranks)
        return str(low) if low == high else f"{low} to {high}"

    before, now = span([row.old_rank for row in rows]), span([row.new_rank for row in rows])
    scale = "same scale" if strength == 1 else f"strength {strength:g} (the update is multiplied by it)"
    return (
        f"{OPENING} `gradience compress` made it without training: LoRA rank {before} → {now}, {scale}, "
        f"relative error of the update {percent(error)}."
    )


def distilled_opening(steps: int) -> str:
    """Return the opening text for the card of an adapter that was distilled for `steps` steps."""
    return (
        f"{OPENING} `gradience distill` trained it for {counted(steps, 'step')} without labels, to match the"
        " reference adapter's outputs."
    )
