"""Settings of a merge: flags and keywords of Python under the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from gradience.adapters.settings import WorkSettings
from gradience.compress.settings import storage_types
from gradience.errors import UsageError
from gradience.evaluate.engines import OURS
from gradience.evaluate.settings import Margin, options_of
from gradience.progress import Watcher
from gradience.settings import SETTINGS, Flag, Integer, Number, Positive, PythonOnly, StrPath, several

Method = Literal["linear", "svd", "ties", "dare", "knots"]
Saved = Literal["refuse", "average", "first"]
SPARSE = ("ties", "dare", "knots")
"""Methods with a density."""


def numbers_of(text: str) -> tuple[float, ...]:
    """Read `1,0.5`. Raises UsageError (`bad-weights`)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--weights {text}: not a list of numbers", code="bad-weights", hint="such as --weights 1,0.5"
        ) from None


def data_of(given: Any) -> Any:
    """Read `NAME=FILE` texts; a mapping stays one. Raises UsageError (`bad-data`)."""
    if isinstance(given, Mapping) or given is None:
        return {name: Path(path) for name, path in (given or {}).items()}
    files: dict[str, Path] = {}
    for text in given:
        name, sign, path = str(text).partition("=")
        if not (name and sign and path) or name in files:
            raise UsageError(
                f"--data {text}: not NAME=FILE, once for each parent",
                code="bad-data",
                hint="give each parent's own examples: --data A=rows_a.jsonl --data B=rows_b.jsonl",
            )
        files[name] = Path(path)
    return files


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class MethodSettings:
    """Method."""

    method: Annotated[Method, Flag("NAME")] = "linear"
    """linear (the exact weighted sum), svd (the sum, truncated), ties, dare or knots."""
    weights: Annotated[Sequence[float] | None, Flag("W,W…", read=numbers_of)] = None
    """Weight of each adapter, in the order given (default: 1 each)."""
    density: Annotated[Number | None, Flag("D")] = None
    """Share of the entries that ties, dare and knots keep of each adapter's update (default: 0.5)."""
    rank: Annotated[Positive | None, Flag("K")] = None
    """Rank of the merged adapter (default: the largest rank of its parents; for linear, the sum of the ranks)."""
    max_kl_per_token: Annotated[Number | None, Flag("X")] = None
    """Choose the smallest rank whose predicted KL per token from the exact sum is below X nats on each calibration."""
    calibration: Annotated[Sequence[StrPath], BeforeValidator(several), Flag("FILE")] = ()
    """Calibration of the exact sum (merged with linear) on the prompts of one parent; may be repeated."""
    seed: Annotated[Integer, Flag("N")] = 0
    """Seed of the entries that dare drops."""
    saved: Annotated[Saved, Flag("HOW")] = "refuse"
    """If trained heads, biases or embeddings differ: refuse, average (by weight), or keep the first adapter's."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class CertificateSettings:
    """Test on each parent's data."""

    data: Annotated[Mapping[str, Path], BeforeValidator(data_of), Flag("NAME=FILE")] = field(
        default_factory=dict
    )
    """Examples of one parent, named by its folder or by A, B, … in the order given; once for each parent. The merged
    adapter is compared with that parent on them."""
    search: bool = False
    """Try a fixed grid of methods, weights and densities on half of the examples; test the best on the other half."""
    margin: Annotated[Margin | None, Flag("POINTS")] = None
    """The largest acceptable drop from each parent in accuracy, in points (default: 2.5); for likelihoods in nats per
    token (0.025)."""
    options: Annotated[Mapping[str, Any], BeforeValidator(options_of), Flag("KEY=VALUE", name="--option")] = (
        field(default_factory=dict)
    )
    """Options of the task, such as the scorer or names of columns."""
    limit: Annotated[Positive | None, Flag("N")] = None
    """Evaluate at most N examples of each parent."""
    all_rows: bool = False
    """Answer all examples at once instead of testing at planned looks, which stop when a result is clear."""
    batch_size: Annotated[Positive | None, Flag("N")] = None
    """Examples per batch (default: as many of similar length as fit)."""
    max_new_tokens: Annotated[Positive | None, Flag("N")] = None
    """Maximum tokens of a generated answer (default: the task's limit)."""
    engine: Annotated[str, Flag("NAME", values=lambda: list(OURS))] = "transformers"
    """Engine that generates answers: transformers, or vllm in a separate process (--engine-python)."""
    base_model: Annotated[StrPath | None, Flag("ID_OR_PATH", "-b", text=True)] = None
    """Base model, a folder or a name on the hub: for --data, and for the weights that DoRA updates depend on (default
    for --data: the base that the configs name)."""
    quantization: Annotated[Literal["nf4"] | None, Flag("NAME")] = None
    """nf4: load the base in 4 bits with bitsandbytes, as QLoRA does."""
    device: Annotated[str, Flag("NAME")] = "auto"
    """Device: cpu, cuda, cuda:1 or mps; auto takes a GPU if there is one."""
    watcher: Annotated[Watcher | None, PythonOnly] = None
    """A callback for each stage and batch of the evaluation."""
    note: Annotated[Callable[[str], None] | None, PythonOnly] = None
    """A callback for each remark about the inputs, before anything is run."""


@dataclass(frozen=True, config=SETTINGS)
class MergeSettings(MethodSettings, CertificateSettings, WorkSettings):
    """Adapters and output."""

    adapters: Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("ADAPTER…")]
    """Folders of two or more LoRA adapters of one base model."""
    output: Annotated[StrPath | None, Flag("DIR", "-o")] = None
    """Folder of the merged adapter. With the same folder and settings an interrupted test resumes."""
    _: KW_ONLY
    dtype: Annotated[str | None, Flag("TYPE", values=storage_types)] = None
    """Storage type: BF16, F16, F32 … (default: the parents' own, or F32 if they differ)."""
    verify_peft: bool = False
    """Load the result with PEFT before it is put in place (needs PEFT)."""
    force: bool = False
    """Replace an existing adapter folder."""
