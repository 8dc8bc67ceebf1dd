"""Settings of a comparison of logs: flags and keywords of Python under the same names."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.settings import SETTINGS, Flag, Integer, Number, PythonOnly, StrPath


@dataclass(frozen=True, config=SETTINGS)
class EvidenceSettings:
    """Logs and scores."""

    a: Annotated[StrPath, Flag("A")]
    """The reference: a log of an evaluation, or a folder with one."""
    b: Annotated[StrPath, Flag("B")]
    """The candidate: a log of the same examples."""
    _: KW_ONLY
    margin: Annotated[Number | None, Flag("M")] = None
    """How much worse B may be: in points for 0/1 scores (default: 2.5), else in the score's units."""
    metric: Annotated[str | None, Flag("NAME")] = None
    """Which score, if the logs have several."""
    filter: Annotated[str | None, Flag("NAME")] = None
    """lm-eval: which filter, if a task has several."""
    lower_is_better: bool | None = None
    """For losses and errors; needs --margin. By default what the logs say, and else that more is better."""
    flips: Annotated[Integer, Field(ge=0), Flag("N")] = 5
    """Examples that B lost, and that it gained."""
    command: Annotated[str, PythonOnly] = ""
    """The command line that the report names."""
