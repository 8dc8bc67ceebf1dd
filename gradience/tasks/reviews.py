"""Movie-review sentences, positive or negative: real text with human ratings, from `embedded.review_sentences`.

Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text", ICWSM 2014. Each sentence carries the mean of ratings between -4 and 4. The sentences are third-party
review text: they are read from the package and never copied into this project.
"""

from dataclasses import replace
from pathlib import Path

from gradience.errors import InputError
from gradience.models.embedded import REVIEWS, review_sentences
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.tasks.base import ClassificationTask, LabelScoring
from gradience.tasks.examples import LabeledExample, content_id, prepare, role_of

LABEL_NAMES = ("negative", "positive")
NEUTRAL = 0.5
"""A sentence whose mean rating is within ±0.5 has no clear label and is left out."""


def load(path: Path | None = None) -> ClassificationTask:
    """The labeled sentences of the file at `path` (tab-separated: id, mean rating, text); by default the asset.

    `counts` also holds `neutral`, the rows without a clear label.
    Raises InputError (`task-row`) for a line that is not such a row.
    """
    source = (
        {"file": str(path)}
        if path
        else {"release": REVIEWS.release.filename, "sha256": REVIEWS.release.sha256}
    )
    path = path or review_sentences()
    rows: list[LabeledExample] = []
    neutral = 0
    content = read_file(path, MAX_DATA_BYTES).decode().replace("\r\n", "\n")
    for number, line in enumerate(content.removesuffix("\n").split("\n"), start=1):
        try:
            _, rating_text, text = line.split("\t")
            rating = float(rating_text)
        except ValueError:
            raise InputError(
                f"{path}: line {number} is not `id <tab> rating <tab> text`",
                code="task-row",
                hint="use the original file from the package",
            ) from None
        if abs(rating) <= NEUTRAL:
            neutral += 1
        else:
            key = content_id(text)
            rows.append(LabeledExample(key, text.strip(), int(rating > 0), role_of(key)))
    examples = prepare(rows)
    counts = {**examples.counts, "rows": len(rows) + neutral, "neutral": neutral}
    return ClassificationTask(
        name="reviews", examples=replace(examples, counts=counts), label_names=LABEL_NAMES, source=source
    )


def scoring(**_: object) -> LabelScoring:
    """Return the scoring rule for labels; it does not depend on the options."""
    return LabelScoring()
