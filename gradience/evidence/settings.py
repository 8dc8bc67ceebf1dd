"""Settings of a comparison of logs: flags and keywords of Python under the same names."""

from dataclasses import KW_ONLY
from typing import Annotated

from pydantic import Field

from gradience.settings import Flag, Integer, Internal, Number, StrPath, settings_model


@settings_model()
class EvidenceSettings:
    """Logs and scores."""

    a: Annotated[StrPath, Flag("REFERENCE")]
    """The reference: a log of an evaluation, or a folder with one."""
    b: Annotated[StrPath, Flag("CANDIDATE")]
    """The candidate: a log of the same examples."""
    _: KW_ONLY
    margin: Annotated[Number | None, Flag("M")] = None
    """Largest acceptable drop from the reference to the candidate: in points for 0/1 scores (default: 2.5), else in the
    score's units."""
    metric: Annotated[str | None, Flag("NAME")] = None
    """Name of the score, if the logs have several."""
    filter: Annotated[str | None, Flag("NAME")] = None
    """lm-eval: name of the filter, if a task has several."""
    group: Annotated[str | None, Flag("COLUMN")] = None
    """Column of a table that names each example's document, user or template: the test counts groups."""
    lower_is_better: bool | None = None
    """Lower scores are better, as for losses; needs `margin` (default: as the logs say, else higher is better)."""
    flips: Annotated[Integer, Field(ge=0), Flag("N")] = 5
    """Number of changed examples to show, of each kind: lost and gained by the candidate."""
    command: Annotated[str, Internal] = ""
    """The command line that the report names."""
