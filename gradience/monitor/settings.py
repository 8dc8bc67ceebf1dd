"""Settings of a reading of runs: flags and keywords of Python under the same names."""

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Annotated

from pydantic import BeforeValidator, Field

from gradience.settings import Flag, Number, StrPath, settings_model, several


@settings_model()
class MonitorSettings:
    """Runs."""

    paths: Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("RUN.jsonl")]
    """File written by GradienceCallback; several are compared."""
    _: KW_ONLY
    gap_threshold: Annotated[Number, Field(ge=1), Flag("X")] = 1.5
    """Alert if evaluation perplexity divided by training perplexity is above this."""
