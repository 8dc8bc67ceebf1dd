"""An evaluation, or a search for the smallest adapter, killed at random moments."""

from pathlib import Path

import peft  # noqa: F401  (loaded once, before anything is forked)
import transformers
from killing import KILLED, drawn, in_child, moments_of, watched

from gradience import evaluate_adapters, shrink_adapter
from gradience.evaluate.engines.transformers.engine import TransformersEngine  # noqa: F401

transformers.BertForSequenceClassification, transformers.PreTrainedTokenizerFast  # noqa: B018  (imports on first use)

WRITING = ("evaluate/records.py", "files/whole.py")


def evaluate(folder: Path, output: Path, **guards: object) -> None:
    evaluate_adapters(
        [folder / "reference", folder / "other"], base_model=folder / "base", data=folder / "rows.csv", output=output,
        with_base=True, batch_size=7, device="cpu", **guards,
    )  # fmt: skip


def evaluate_sets(folder: Path, output: Path) -> None:
    rows = [{"text": f"a {word} is {word}", "label": word} for word in ("bad", "good")]
    evaluate(folder, output, guards={"general": rows})


def shrink(folder: Path, output: Path) -> None:
    shrink_adapter(
        folder / "reference", output, base_model=folder / "base", data=folder / "rows.csv", margin="90",
        ranks=[1], batch_size=30, device="cpu",
    )  # fmt: skip


VERBS = {
    "evaluate": (evaluate, ("evaluate/verb.py", "evaluate/outcome.py")),
    "evaluate_sets": (evaluate_sets, ("evaluate/verb.py", "evaluate/outcome.py")),
    "shrink": (shrink, ("shrink/verb.py", "shrink/search.py")),
}


def killed_in(root: Path, verb: str, folder: Path, kills: int) -> None:
    """Run undisturbed in `whole`, and with kills in `killed`. folder: written by `adapters_to_compare.classifiers`."""
    work, names = VERBS[verb]
    files = watched(*WRITING, *names)
    moments = moments_of(lambda: work(folder, root / "whole"), files)
    for moment in drawn(moments, kills, seed=0):
        assert in_child(lambda: work(folder, root / "killed"), files, moment) == KILLED
    assert in_child(lambda: work(folder, root / "killed")) == 0
