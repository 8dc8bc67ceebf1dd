"""Records of two adapters, written batch by batch and killed at every moment of the writing."""

from pathlib import Path

from killing import KILLED, WRITING, in_child, moments_of, watched
from records_sample import run_of, scored

from gradience.evaluate.records import RecordFile, answer_batches

IDS, BATCHES = ("a", "b", "c"), ((2, 0), (1,))
FILES = ("first.jsonl", "second.jsonl")


def answer(places):
    records = [scored(IDS[place], -place) for place in places]
    return [records for _ in FILES]


def evaluate(folder: Path) -> None:
    files = [RecordFile(run_of("scores", name, len(IDS)), IDS, BATCHES, folder / name) for name in FILES]
    answer_batches(files, answer)


def killed_at_every_moment(root: Path) -> tuple[int, int]:
    """Return the number of moments, and the number after which temporary files were left."""
    files = watched("evaluate/records.py", "files/records.py", *WRITING)
    moments = moments_of(lambda: evaluate(root / "whole"), files)
    whole = [(root / "whole" / name).read_bytes() for name in FILES]
    left = 0
    for moment in range(1, moments + 1):
        folder = root / str(moment)
        assert in_child(lambda: evaluate(folder), files, moment) == KILLED, moment  # noqa: B023
        left += folder.is_dir() and any(entry.suffix == ".tmp" for entry in folder.iterdir())
        evaluate(folder)
        assert [(folder / name).read_bytes() for name in FILES] == whole, moment
        assert len(list(folder.iterdir())) == len(FILES), moment
    return moments, left
