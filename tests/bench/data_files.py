"""Local files, and folders that `datasets` reads as it reads a repository of the hub."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def small_gsm8k(folder: Path) -> dict[str, Any]:
    """The options of a task in GSM8K's form: 40 rows to train on and 10 to decide, written to `folder`."""
    for name, count in (("train", 40), ("test", 10)):
        rows = [{"question": f"{name} a film {n}", "answer": f"very good #### {n}"} for n in range(count)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return {"train_file": str(folder / "train.jsonl"), "test_file": str(folder / "test.jsonl"), "dev": 0}


def write_repository(
    folder: Path, subset: str, splits: Mapping[str, Iterable[Mapping[str, Any]]], features: str = ""
) -> Path:
    """A data set with one subset; `features` is what its card says of the columns (YAML)."""
    for split, rows in splits.items():
        write_jsonl(folder / subset / f"{split}.jsonl", rows)
    files = "".join(f"  - split: {split}\n    path: {subset}/{split}.jsonl\n" for split in splits)
    info = f"dataset_info:\n- config_name: {subset}\n  features:\n{features}" if features else ""
    card = f"---\nconfigs:\n- config_name: {subset}\n  data_files:\n{files}{info}---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder
