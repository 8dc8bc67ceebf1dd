"""Settings of a merge: flags and keywords of Python under the same names."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gradience.adapters.settings import WorkSettings
from gradience.evaluate.settings import AnswerSettings, guards_of
from gradience.models.settings import BaseSettings
from gradience.settings import Flag, Integer, Number, OutputPath, Positive, StrPath, settings_model, several

Method = Literal["linear", "svd", "ties", "dare", "knots"]
SPARSE = ("ties", "dare", "knots")
"""Methods with a density."""


@settings_model(kw_only=True)
class MethodSettings:
    """Method."""

    method: Annotated[Method, Flag("NAME")] = "linear"
    """linear (the exact weighted sum), svd (the sum, truncated), ties, dare or knots."""
    weights: Annotated[Sequence[float], Flag("W,W…", read=lambda text: text.split(","))] = ()
    """Weight of each adapter, in the order given (default: 1 each)."""
    density: Annotated[Number, Field(gt=0, le=1), Flag("D")] = 0.5
    """Share of the entries that ties, dare and knots keep of each adapter's update."""
    rank: Annotated[Positive | None, Flag("K")] = None
    """Rank of the merged adapter (default: the largest rank of its parents; for linear, the sum of the ranks)."""
    max_kl_per_token: Annotated[Number | None, Flag("X")] = None
    """Choose the smallest rank whose predicted KL per token from the exact sum is below this, in nats, on each
    calibration."""
    calibration: Annotated[Sequence[StrPath], BeforeValidator(several), Flag("FILE")] = ()
    """One or several calibrations of the exact sum (merged with linear), each on the prompts of one parent."""
    seed: Annotated[Integer, Flag("N")] = 0
    """Seed of the entries that dare drops."""
    saved: Annotated[Literal["refuse", "average"], Flag("HOW")] = "refuse"
    """If trained heads, biases or embeddings differ: refuse, or average them by weight."""


@settings_model()
class MergeSettings(MethodSettings, BaseSettings, AnswerSettings, WorkSettings):
    """Adapters and output."""

    adapters: Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("ADAPTER…")]
    """Folders of two or more LoRA adapters that share a base model."""
    output: Annotated[OutputPath | None, Flag("DIR", "-o")] = None
    """Folder of the merged adapter. With the same folder and settings an interrupted test resumes."""
    _: KW_ONLY
    data: Annotated[Mapping[str, Any], BeforeValidator(guards_of), Flag("NAME=FILE")] = field(
        default_factory=dict
    )
    """Examples of one parent, named by its folder or by A, B, … in the order given; once for each parent. The merged
    adapter is compared with that parent on them."""
    search: bool = False
    """Try a fixed grid of methods, weights and densities on half of the examples; test the best on the other half."""
    force: bool = False
    """Replace an existing adapter folder."""
