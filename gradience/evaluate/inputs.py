"""What an evaluation is asked to do, read and checked before any model is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from inspect import signature
from pathlib import Path
from typing import Any

from gradience import tasks
from gradience.adapters.adapter import Adapter
from gradience.adapters.config import HEADS_OF_TASK
from gradience.adapters.formats import open_adapter, require_peft
from gradience.errors import InputError, UsageError
from gradience.evaluate.checks import notes_of
from gradience.evaluate.engines.base import AdapterIdentity
from gradience.evaluate.settings import EvaluateSettings
from gradience.files.shared_names import path_text
from gradience.models.locate import plain_name
from gradience.models.settings import ModelSettings, ModelType
from gradience.models.tokenizers import stored_tokens, with_tokenizer
from gradience.reports.base.exact import as_written, share_of_points
from gradience.reports.bench_plan import Role
from gradience.tasks.base import ChatTask, ClassificationTask, LikelihoodTask, Task, rendered
from gradience.tasks.rows import Kind, kind_of, local
from gradience.words import counted

BASE_ROW = "base"
READERS: Mapping[Kind, tuple[str, Mapping[str, Any]]] = {
    "labels": ("classification", {}),
    "prompts": ("jsonl", {}),
    "choices": ("jsonl", {"scorer": "multiple_choice"}),
    "messages": ("chat", {}),
}
"""What the rows of a file hold -> the task that reads them, and options that it needs."""
ENCODER_DECODER = "SEQ_2_SEQ_LM"
TEXT_TOKENS = 512
"""Of a text to label, where no other number is given: what BERT and its kin can tell apart."""


@dataclass(frozen=True, slots=True)
class AdapterInput:
    """One adapter on disk."""

    name: str
    """Short, and different from all others."""
    given: Path
    identity: AdapterIdentity
    ranks: tuple[int, int]
    """Smallest and largest."""
    lora_params: int
    other_params: int
    base_model: str | None
    """What its config names."""
    fields: Mapping[str, Any]
    """Its whole config."""
    tokens: int | None = None
    """Rows of an embedding or head over tokens that it stores whole; None where it stores none."""

    @property
    def folder(self) -> Path:
        """PEFT's folder."""
        return self.identity.folder


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that can be known before a model is loaded."""

    request: EvaluateSettings
    adapters: tuple[AdapterInput, ...]
    model: ModelSettings
    task: Task
    examples: Sequence[Any]
    role: Role | None
    """None: all rows of a file."""
    notes: tuple[str, ...]

    @property
    def reference(self) -> AdapterInput:
        """The first adapter."""
        return self.adapters[0]

    @property
    def classifies(self) -> bool:
        """Whether labels are given, and not text."""
        return isinstance(self.task, ClassificationTask)

    @property
    def likelihoods(self) -> bool:
        """Whether nothing is generated, and the likelihoods of given responses are the answers."""
        return isinstance(self.task, LikelihoodTask)

    @property
    def compares_nll(self) -> bool:
        """Whether no answer is correct or not, and the likelihoods themselves are compared."""
        return isinstance(self.task, LikelihoodTask) and self.task.decide_by == "nll"

    @property
    def margin(self) -> Fraction:
        """The largest acceptable drop: a share of the examples; of likelihoods, nats per token.

        Raises UsageError (`bad-margin`).
        """
        given = self.request.margin
        if not self.compares_nll:
            return share_of_points(Fraction("2.5") if given is None else as_written(given))
        margin = Fraction("0.025") if given is None else as_written(given)
        if not 0 < margin < 1:
            raise UsageError(
                f"a margin of {float(margin):g} nats per token makes no sense",
                code="bad-margin",
                hint="between 0 and 1: 0.025 is a perplexity that is 2.5 % higher",
            )
        return margin

    @property
    def adapter_bytes(self) -> int:
        """The largest two adapters in float32: no more are loaded at once."""
        return 4 * sum(sorted(each.lora_params + each.other_params for each in self.adapters)[-2:])

    @property
    def max_length(self) -> int:
        """Tokens of a text to label."""
        return self.request.max_length or TEXT_TOKENS


def read_inputs(request: EvaluateSettings) -> Inputs:
    """Read and check adapters, examples and what of the base is small; no model is loaded.

    Raises UsageError (`no-adapter`, `same-adapter`, `no-task`, `no-base`, `bad-margin`, `wrong-model`, `no-examples`),
    InputError (`labels-differ`), and what adapters, tasks and `checks.notes_of` raise.
    """
    adapters = _adapters(
        [Path(adapter) for adapter in request.adapters], tokenizer=request.tokenizer != "base"
    )
    task = _task(request)
    kind = _kind(adapters, task)
    name = None if request.base_model is None else str(request.base_model)
    name = name or adapters[0].base_model
    if name is None:
        raise UsageError(
            f"{request.adapters[0]}: its config names no base model",
            code="no-base",
            hint="give --base-model: a folder, or a name on the hub",
        )
    model = ModelSettings(
        name=name,
        from_adapter=request.base_model is None,
        type=kind,
        revision=request.revision,
        dtype=request.dtype,
        quantization=request.quantization,
    )
    model = with_tokenizer(model, request.tokenizer, [adapters[0].folder])
    role = None if request.data is not None else request.role
    asked = rendered(task if role is not None else _all_alike(task), model)
    examples = (asked.examples.all if role is None else asked.examples.of(role))[: request.limit]
    if not examples:
        raise UsageError(
            f"{task.name} has no {role} examples", code="no-examples", hint="choose another --role"
        )
    inputs = Inputs(request, adapters, model, asked, examples, role, tuple(_notes(adapters, name)))
    _ = inputs.margin  # refuses a bad one before a model is loaded
    return replace(inputs, notes=(*inputs.notes, *notes_of(inputs)))


# ---------------------------------------------------------------- adapters


def _adapters(paths: Sequence[Path], *, tokenizer: bool) -> tuple[AdapterInput, ...]:
    if not paths:
        raise UsageError("no adapter given", code="no-adapter", hint="name at least one adapter folder")
    whole = [path.resolve() for path in paths]
    for place, path in enumerate(whole):
        if path in whole[:place]:
            raise UsageError(
                f"{paths[place]} is given twice", code="same-adapter", hint="name each adapter once"
            )
    named = zip(short_names(whole), paths, strict=True)
    return tuple(adapter_input(name, path, tokenizer=tokenizer) for name, path in named)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each path: its last part, and where several share that, the part before it in its place.

    >>> short_names([Path("/runs/r8"), Path("/runs/r4")])
    ['r8', 'r4']
    >>> short_names([Path("/run/probe/adapter"), Path("/run/small/adapter"), Path("/run/mine")])
    ['probe', 'small', 'mine']

    None is the base's; where single parts do not tell all apart, the last parts are joined.
    """
    named = list(paths)
    while all(path.name for path in named):
        names = [path.name for path in named]
        if _differ(names):
            return names
        shared = Counter(map(str.casefold, names))
        if BASE_ROW in shared:
            break
        named = [path.parent if shared[path.name.casefold()] > 1 else path for path in named]
    for depth in range(2, max(len(path.parts) for path in paths) + 1):
        names = ["-".join(part for part in path.parts[-depth:] if part != path.anchor) for path in paths]
        if _differ(names):
            return names
    return [f"{place}-{path.name}" for place, path in enumerate(paths, start=1)]


def _differ(names: Sequence[str]) -> bool:
    lower = [name.casefold() for name in names]  # some disks know no difference
    return len({*lower}) == len(lower) and BASE_ROW not in lower


def adapter_input(name: str, path: Path, *, tokenizer: bool = False) -> AdapterInput:
    """Read the adapter at `path`, to be called `name`. Raises InputError (`no-config`), and what reading raises.

    tokenizer: of a name on the hub, fetch the tokenizer that lies beside the weights as well.
    """
    with open_adapter(path, tokenizer=tokenizer) as adapter:
        config = adapter.config
        if config is None:
            raise InputError(
                f"{path}: there is no adapter_config.json beside the weights",
                code="no-config",
                hint="give the folder that PEFT wrote, with adapter_config.json and adapter_model.safetensors",
            )
        require_peft(adapter)
        ranks = [pair.rank for pair in adapter.pairs]
        lora = sum(pair.params for pair in adapter.pairs)
        return AdapterInput(
            name,
            path,
            AdapterIdentity.of(config.path.parent),
            (min(ranks, default=0), max(ranks, default=0)),
            lora,
            sum(entry.params for _, entry in adapter.entries()) - lora,
            config.base_model,
            config.fields,
            stored_tokens({entry_name: entry.shape for entry_name, entry in adapter.entries()}),
        )


def why_inert(folder: Path) -> str:
    """Return why an adapter changes nothing, as far as its file shows it; empty where that is not known."""
    with open_adapter(folder) as adapter:
        if adapter.pairs and all(pair.scale == 0 for pair in adapter.pairs):
            return "its scale is 0 in every module (lora_alpha is 0)"
        if adapter.pairs and all(_is_zero(adapter, place) for place in range(len(adapter.pairs))):
            return "B is 0 in every module, as before training"
    return ""


def _is_zero(adapter: Adapter, place: int) -> bool:
    pair = adapter.pairs[place].load()
    return not any(
        block.any() for expert in range(adapter.pairs[place].experts) for block in pair.blocks_B(expert)()
    )


def _notes(adapters: Sequence[AdapterInput], base: str) -> list[str]:
    """Configs that name another base: not wrong, since a copy of it has another name."""
    base = plain_name(base)
    short = path_text(base)
    return [
        f"{adapter.name}: its config names {path_text(adapter.base_model)} as its base, and it is evaluated on {short}"
        for adapter in adapters
        if adapter.base_model is not None
        and _last(adapter.base_model) != _last(base)
        and not base.startswith("embedded:")
    ]


def _last(name: str) -> str:
    return name.rstrip("/\\").replace("\\", "/").rpartition("/")[2].casefold()


# ---------------------------------------------------------------- examples


def _task(request: EvaluateSettings) -> Task | ChatTask:
    options = dict(request.options)
    folder = None if request.folder is None else Path(request.folder)
    if request.data is None:
        if request.task is None:
            raise UsageError(
                "neither data nor a task given",
                code="no-task",
                hint=f"give --data FILE, or --task with one of {', '.join(tasks.PROFILES)}",
            )
        return tasks.load(request.task, options, folder=folder, needed=())
    if request.task in tasks.PROFILES and "file" not in signature(tasks.find(request.task)).parameters:
        raise UsageError(
            f"--task {request.task} brings its own examples, and --data {request.data} is given",
            code="data-and-task",
            hint="leave one of them out",
        )
    more: Mapping[str, Any] = {}
    profile = request.task
    if profile is None:
        profile, more = reader_of(Path(request.data), options)
    file = Path(request.data) if request.folder is None else Path(request.data).absolute()
    return tasks.load(profile, {**more, **options, "file": str(file)}, folder=folder, needed=())


def _all_alike(task: Task | ChatTask) -> Task | ChatTask:
    """The task with conversations of one role: only their last turns are asked, since none of them is trained on."""
    if not isinstance(task, ChatTask):
        return task
    last = tuple(replace(example, role="confirm") for example in task.examples.all)
    return replace(task, examples=replace(task.examples, all=last))


def reader_of(data: Path, options: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The task that reads such rows, and options that it needs. Raises InputError (`task-kind`)."""
    if "text_column" in options or "label_column" in options:
        return "text_classification", {"text_column": "text", "label_column": "label"}
    first = next(local(data).read(), None)
    kind = None if first is None else kind_of(first)
    if kind is None:
        what = "has no rows" if first is None else f"its first row has {', '.join(sorted(first.values)[:8])}"
        raise InputError(
            f"{data}: {what}",
            code="task-kind",
            hint="for a language model put all that it is asked into `prompt`, and rename the other column to `answer`"
            " or `completion`; for a classifier give `text` and `label`, or --option text_column=NAME"
            " --option label_column=NAME",
        )
    return READERS[kind]


def _kind(adapters: Sequence[AdapterInput], task: Task | ChatTask) -> ModelType:
    """Return the kind of model that the adapters need; one that does not say so is like the others, or causal.

    Raises UsageError (`wrong-model`) for a kind that does not fit the task or the first adapter, InputError
    (`labels-differ`) for a head with another number of labels.
    """
    classifies = isinstance(task, ClassificationTask)
    fitting: tuple[str, ...] = ("SEQ_CLS",) if classifies else ("CAUSAL_LM", ENCODER_DECODER)
    if (
        isinstance(task, LikelihoodTask) and task.rolling
    ):  # of a whole text an encoder–decoder has no likelihood
        fitting = ("CAUSAL_LM",)
    needed = " or ".join(fitting)
    for adapter in adapters:
        kind = adapter.fields.get("task_type")
        if kind is not None and kind not in fitting:
            raise UsageError(
                f"{adapter.given}: its task_type is {kind}, and {task.name} needs {needed}",
                code="wrong-model",
                hint="choose a task of the adapter's kind",
            )
        if isinstance(task, ClassificationTask):
            _check_labels(adapter, task)
    kinds = {kind for adapter in adapters if (kind := adapter.fields.get("task_type")) is not None}
    if len(kinds) > 1:
        raise UsageError(
            f"adapters of two kinds of model: task_type is {' and '.join(sorted(kinds))}",
            code="wrong-model",
            hint="evaluate those of one base together",
        )
    if classifies:
        return "seqcls"
    return "seq2seq_lm" if kinds == {ENCODER_DECODER} else "causal_lm"


def _check_labels(adapter: AdapterInput, task: ClassificationTask) -> None:
    """Raise InputError (`labels-differ`) where no matrix of the adapter's head has a row for each label."""
    labels = len(task.label_names)
    with open_adapter(adapter.folder) as opened:
        rows = {
            entry.shape[0]
            for name, entry in opened.entries()
            if name.endswith(".weight")
            and "lora_" not in name
            and len(entry.shape) == 2
            and any(part in HEADS_OF_TASK["SEQ_CLS"] for part in name.split("."))
        }
    if rows and labels not in rows:
        raise InputError(
            f"{adapter.given}: its head has {counted(min(rows), 'label')}, and {task.name} has {labels}"
            f" ({', '.join(task.label_names[:5])})",
            code="labels-differ",
            hint="check the label column, or list the labels with --option label_names=…",
        )
