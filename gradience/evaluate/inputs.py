"""Inputs of an evaluation, read and checked before any model is loaded."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gradience import tasks
from gradience.digests import in_first_half, sha256_text
from gradience.errors import InputError, UsageError, require
from gradience.evaluate.adapters import AdapterIdentity, AdapterInput, adapter_input, model_of, short_names
from gradience.evaluate.engines import OURS, engine
from gradience.evaluate.records import MANIFEST, RECORDS
from gradience.evaluate.settings import OWN_EXAMPLES, EvaluateSettings
from gradience.files.rows import is_on_hub
from gradience.files.shared_names import path_text
from gradience.models.locate import last_part, plain_name
from gradience.models.settings import ModelSettings, ModelType
from gradience.models.tokenizers import with_tokenizer
from gradience.reports.base.exact import as_written, share_of_points
from gradience.reports.bench_plan import Compares, Role
from gradience.reports.evaluation import KeptRecords
from gradience.settings import paths_of
from gradience.statistics.groups import group_note, joined, spelling_key
from gradience.tasks.base import ChatTask, ClassificationTask, GenerationTask, LikelihoodTask, Task
from gradience.tasks.chat import Unchanged, load_prompts
from gradience.tasks.examples import ChoiceExample, LabeledExample
from gradience.tasks.rows import KINDS, columns_hint, grouped_by, kind_of, local
from gradience.words import counted

DEFAULT_POINTS = {False: Fraction("2.5"), True: Fraction(5)}
"""Default margin of accuracy in points: of a task, and of a guard."""
DEFAULT_NATS = {False: Fraction("0.025"), True: Fraction("0.05")}
"""Default margin of likelihoods in nats per token."""
TEXT_TOKENS = 512
"""Default token limit for texts to label: the context of BERT-like models."""


@dataclass(frozen=True, slots=True)
class EvaluateInputs:
    """Inputs of an evaluation, read before a model is loaded."""

    request: EvaluateSettings
    adapters: tuple[AdapterInput, ...]
    model: ModelSettings
    task: Task
    examples: Sequence[Any] = ()
    role: Role | None = None
    """None: all rows of a file."""
    notes: tuple[str, ...] = ()
    tokenizer: Any = None
    """Tokenizer of the base, which encodes each row once; None if the engine has none here."""
    measures_divergence: bool = True
    """True if KL and flips on the gold responses are measured beside the answers."""
    looks: tuple[int, ...] = ()
    """Numbers of examples at which candidates are tested, the last of them all; empty: all at once."""
    group_of: Mapping[str, int] = field(default_factory=dict)
    """Id of an example -> its group; empty if each example is its own."""
    grown_from: int | None = None
    """Number of examples planned before the first answers, if there are more now."""
    first_margin: Fraction | None = None
    """Margin set before the first answers, if it has changed since."""

    @property
    def name(self) -> str:
        """Name of the data set, if there are several."""
        return self.request.set_name

    @property
    def reference(self) -> AdapterInput:
        """The first adapter."""
        return self.adapters[0]

    @property
    def classifies(self) -> bool:
        """True if the answers are labels."""
        return isinstance(self.task, ClassificationTask)

    @property
    def compares_nll(self) -> bool:
        """True if nothing is generated, and the likelihoods of given responses are compared."""
        return isinstance(self.task, LikelihoodTask)

    @property
    def by_agreement(self) -> bool:
        """True if prompts have no answers, and outputs are compared with the reference's."""
        return isinstance(self.task, GenerationTask) and isinstance(self.task.decide, Unchanged)

    @property
    def compares(self) -> Compares:
        """Measure that the test compares."""
        return "nll" if self.compares_nll else "agreement" if self.by_agreement else "correct"

    @property
    def margin(self) -> Fraction:
        """The largest acceptable drop: a share of the examples; of likelihoods, nats per token.

        Raises UsageError (`bad-margin`).
        """
        given: Any = self.request.margin
        percent = str(given).endswith("%")
        if not self.compares_nll:
            if percent:
                value = float(as_written(str(given)[:-1]))
                raise UsageError(
                    f"--margin {value:g}%: a rise in perplexity, but {self.task.name} compares accuracy",
                    code="bad-margin",
                    hint="give it in points, such as 2.5",
                )
            return share_of_points(
                DEFAULT_POINTS[self.request.is_guard] if given is None else as_written(given)
            )
        margin = (
            DEFAULT_NATS[self.request.is_guard] if given is None else as_written(str(given).removesuffix("%"))
        )
        if percent:
            margin = Fraction(f"{math.log1p(max(0.0, float(margin)) / 100):.6f}")
        if not 0 < margin < 1:
            raise UsageError(
                f"invalid margin: {float(margin):g} nats per token",
                code="bad-margin",
                hint="give a number between 0 and 1, or the rise in perplexity: 0.025 and 2.5% mean 2.5 % higher",
            )
        return margin

    @property
    def adapter_bytes(self) -> int:
        """The largest two adapters in float32: no more are loaded at once."""
        return sum(sorted(adapter.bytes for adapter in self.adapters)[-2:])

    @property
    def max_length(self) -> int:
        """Maximum tokens of a text to label."""
        return self.request.max_length or TEXT_TOKENS


def read_adapters(request: EvaluateSettings) -> tuple[AdapterInput, ...]:
    """Read the adapters. If the engine is a server, a path that is not a folder is a name that it knows.

    Raises UsageError (`no-adapter`, `same-adapter`), and what `adapter_input` raises.
    """
    paths, local = paths_of(request.adapters), request.engine in OURS or engine(request.engine).local
    if not paths:
        raise UsageError("no adapter given", code="no-adapter", hint="name at least one adapter folder")
    whole = [path.resolve() for path in paths]
    for place, path in enumerate(whole):
        if path in whole[:place]:
            raise UsageError(
                f"{paths[place]} is given twice", code="same-adapter", hint="name each adapter once"
            )
    return tuple(
        adapter_input(name, path, tokenizer=request.tokenizer != "base")
        if local or path.exists()
        else AdapterInput(name, path, AdapterIdentity(path))
        for name, path in zip(short_names(whole), paths, strict=True)
    )


def read_inputs(
    request: EvaluateSettings, adapters: tuple[AdapterInput, ...] | None = None
) -> EvaluateInputs:
    """Read and check adapters, examples, and the base's small files. No model is loaded.

    adapters: those of the request, if they have been read.

    Raises UsageError (`no-task`, `no-base`, `bad-margin`, `wrong-model`, `no-examples`, `engine-cannot`), InputError
    (`labels-differ`), and what `read_adapters`, tasks and the engine's `inspect` raise.
    """
    requested, request = request, replace(request, limit=_planned_limit(request))
    adapters = adapters or read_adapters(request)
    if request.prompts is not None and (request.data is not None or request.task is not None):
        raise UsageError(
            "prompts without answers and examples with answers cannot be evaluated together",
            code="data-and-prompts",
            hint="leave --prompts out, or evaluate the two separately",
        )
    task: Task | ChatTask | None
    try:
        task = None if request.prompts is not None else task_of(request)
    except InputError as error:
        if error.code != "task-unknown":
            raise
        raise UsageError(str(error), code=error.code, hint=error.hint) from None
    engine_type = engine(request.engine)  # imports PyTorch: what is wrong with files is known by now
    kind = _kind(adapters, task, request)
    model = model_of(request, adapters[0], kind).model_copy(update={"server": request.server})
    if request.server is not None and engine_type.local:
        raise UsageError(
            f"--server cannot be used with the engine {engine_type.name}, which loads the base on this machine",
            code="engine-cannot",
            hint="add --engine openai, or remove --server",
        )
    model = with_tokenizer(model, request.tokenizer, [adapters[0].folder])
    tokenizer = engine_type.tokenizer_of(model)
    if task is None:
        task = _prompts(request, tokenizer)
    if isinstance(task, ChatTask):
        if tokenizer is None:
            require("transformers", extra="hf")
            from gradience.models.load import load_tokenizer

            tokenizer = load_tokenizer(model)
        task = task.rendered(tokenizer)
    if not isinstance(task, ClassificationTask):  # `check` reports these errors in more detail
        engine_type.require(task.kind)
    inputs = with_rows(EvaluateInputs(request, adapters, model, task, tokenizer=tokenizer))
    examples, groups = inputs.examples, inputs.group_of
    notes = [*_other_bases(adapters, model.name), *engine_type.inspect(inputs)]
    can_measure = "scores" in engine_type.answers
    measures = can_measure and not (inputs.classifies or inputs.by_agreement or request.no_kl)
    if not can_measure and not inputs.classifies:
        notes.append(
            f"the engine {engine_type.name} computes no KL: KL, flips, and whether an adapter has any effect were not"
            " measured"
        )
    if (
        isinstance(task, ClassificationTask)
        and task.name == "classification"
        and "label_names" not in request.options
    ):
        order = [f"label {label} is class {place}" for place, label in enumerate(task.label_names[:5])]
        rest = ", …" if len(task.label_names) > 5 else ""
        otherwise = "if your head orders them differently, set --option label_names=…"
        notes.append(f"{', '.join(order)}{rest}; {otherwise}")
    if groups:
        notes.append(group_note(len(examples), tuple(groups.values()), request.group))
    inputs = replace(inputs, request=requested, notes=tuple(notes), measures_divergence=measures)
    return with_looks(inputs) if len(adapters) > 1 else inputs


def with_rows(inputs: EvaluateInputs) -> EvaluateInputs:
    """Return the inputs with the examples to test and their groups.

    Raises UsageError (`no-examples`, `no-group`, `bad-margin`).
    """
    request, task = inputs.request, inputs.task
    _ = inputs.margin  # refuses a bad one before a model is loaded
    role: Role | None = "dev" if request.role == "dev" else "confirm"
    if request.data is not None or request.prompts is not None:
        role = None
    examples = (task.examples.all if role is None else task.examples.of(role))[: request.limit]
    if not examples:
        raise UsageError(
            f"{task.name} has no {request.role} examples",
            code="no-examples",
            hint="choose a --role that has examples",
        )
    groups = groups_of(task, examples, request.group)
    return replace(inputs, examples=examples, role=role, group_of=groups)


def groups_of(task: Task, examples: Sequence[Any], column: str | None = None) -> dict[str, int]:
    """Return the group of each example by its id: by a column, and spellings of one text; empty if each is its own.

    Raises UsageError (`no-group`) without such a column, and for a single group.
    """
    known = task.examples.groups
    if column is not None and not known:
        raise UsageError(
            f"--group {column}: only data files of your own can have a group column",
            code="no-group",
            hint="give a file with prompts, choices, messages, or the columns `text` and `label`",
        )
    groups = joined(
        [known.get(row.id) for row in examples], [spelling_key(_text_of(row)) for row in examples]
    )
    if len(set(groups)) == len(groups):
        return {}
    if len(set(groups)) == 1:
        raise UsageError(
            "all examples belong to one group: they are not a sample",
            code="no-group",
            hint="give different examples, or a column with more values",
        )
    return dict(zip((row.id for row in examples), groups, strict=True))


def _text_of(example: Any) -> str:
    if isinstance(example, LabeledExample):
        return f"{example.text}\n{example.text_pair or ''}"
    if isinstance(example, ChoiceExample):
        return "\n".join((example.prompt, *example.choices))
    return str(example.prompt) if example.prompt.strip() else str(example.response)


def _planned_limit(request: EvaluateSettings) -> int | None:
    """Return the number of examples to read: with a smaller limit than planned, tests stop at an earlier look."""
    if request.limit is None or request.output is None or request.all_rows:
        return request.limit
    manifest = Path(request.output) / RECORDS / MANIFEST
    try:
        planned = KeptRecords.read(manifest).examples if manifest.exists() else None
    except InputError:  # of another version: it is made anew
        planned = None
    return max(request.limit, planned or 0)


def in_look_order(
    examples: Sequence[Any], group_of: Mapping[str, int] = MappingProxyType({})
) -> tuple[Any, ...]:
    """Return examples in the order in which looks answer them, those of a group together.

    It is random, and depends on the examples only: not on their order in the file.
    """
    position = {example.id: sha256_text(f"looks\0{example.id}") for example in examples}
    first: dict[int, str] = {}
    for name, group in group_of.items():
        if name in position:
            first[group] = min(first.get(group, position[name]), position[name])

    def place(example: Any) -> tuple[str, str]:
        name = example.id
        return (first[group_of[name]] if name in group_of else position[name], position[name])

    return tuple(sorted(examples, key=place))


def planned_looks(
    examples: Sequence[Any], group_of: Mapping[str, int], margin: float
) -> tuple[Sequence[Any], tuple[int, ...]]:
    """Return examples in the order of planned looks, and those, each after a whole group; none if there is only one."""
    from gradience.statistics.sequential import fewest_at_first_look, plan_looks

    ordered, n = in_look_order(examples, group_of), len(examples)
    groups = [group_of.get(example.id, example.id) for example in ordered]
    ends = [end for end in range(1, n + 1) if end == n or groups[end] != groups[end - 1]]
    planned = plan_looks(n, ends[min(fewest_at_first_look(margin), len(ends)) - 1])
    looks = tuple(sorted({ends[bisect_left(ends, look)] for look in planned}))
    return (ordered, looks) if len(looks) > 1 else (examples, ())


def with_looks(inputs: EvaluateInputs) -> EvaluateInputs:
    """Return the inputs with planned looks, and the examples in that order.

    Scores other than 0/1 are tested once: at looks, heavy losses made up to 6.1 % false claims.
    """
    if inputs.request.all_rows or inputs.compares_nll:
        return inputs
    examples, looks = planned_looks(inputs.examples, inputs.group_of, float(inputs.margin))
    return replace(inputs, examples=examples, looks=looks)


def _other_bases(adapters: Sequence[AdapterInput], base: str) -> Iterator[str]:
    """Return notes on configs that name another base. This is no error, since a copy of the base may be renamed."""
    base = plain_name(base)
    for adapter in adapters:
        named = adapter.base_model
        if named is not None and last_part(named) != last_part(base) and not base.startswith("embedded:"):
            yield (
                f"{adapter.name}: its config names {path_text(named)} as its base, and it is evaluated on"
                f" {path_text(base)}"
            )


# ---------------------------------------------------------------- examples


def task_of(request: EvaluateSettings) -> Task | ChatTask:
    """Return the task with its examples. Raises UsageError (`no-task`, `data-and-task`), and what loading raises."""
    task = _task(request)
    if request.data is not None and isinstance(task, ChatTask):
        # only last turns are evaluated, and none of them is trained on
        last = tuple(replace(example, role="confirm") for example in task.examples.all)
        return replace(task, examples=replace(task.examples, all=last))
    return task


def _task(request: EvaluateSettings) -> Task | ChatTask:
    options = dict(request.options)
    folder = None if request.folder is None else Path(request.folder)
    data = request.data_file
    if data is None:
        if request.task is None:
            raise UsageError(
                "no examples: neither --data nor --task is given",
                code="no-task",
                hint="give --data rows.jsonl, --prompts rows.jsonl, or --task with one of"
                f" {', '.join(sorted(OWN_EXAMPLES))}",
            )
        return tasks.load(request.task, options, folder=folder, needed=())
    if request.task in OWN_EXAMPLES:
        raise UsageError(
            f"--task {request.task} has its own examples, so --data {request.data} cannot be used",
            code="data-and-task",
            hint="leave one of them out",
        )
    more: Mapping[str, Any] = {}
    profile = request.task
    if profile is None:
        profile, more = reader_of(data, request.columns)
    if request.columns:
        options["columns"] = dict(request.columns)
    file = data if request.folder is None or is_on_hub(data) else data.absolute()
    with grouped_by(request.group):
        return tasks.load(profile, {**more, **options, "file": str(file)}, folder=folder, needed=())


def _prompts(request: EvaluateSettings, tokenizer: Any) -> GenerationTask:
    """Return the prompts as a task; `stop` and `max_new_tokens` are its options. Raises UsageError (`task-options`)."""
    options = dict(request.options)
    stop, tokens = options.pop("stop", ()), options.pop("max_new_tokens", None)
    if options:
        raise UsageError(
            f"--option {next(iter(options))}: prompts have only the options `stop` and `max_new_tokens`",
            code="task-options",
        )
    with grouped_by(request.group):
        return load_prompts(
            Path(request.prompts or ""),
            tokenizer,
            columns=dict(request.columns),
            stop=[stop] if isinstance(stop, str) else stop,
            max_new_tokens=tokens,
        )


def reader_of(data: Path, columns: Mapping[str, str] | None = None) -> tuple[str, Mapping[str, Any]]:
    """Return the task that reads these rows, and the options that it needs. Raises InputError (`task-kind`)."""
    first = next(local(data, columns).read(), None)
    kind = None if first is None else kind_of(first)
    if kind is None:
        if first is None:
            raise InputError(f"{data}: has no rows", code="task-kind", hint="give a file with examples")
        raise InputError(
            f"{data}: the columns {first.named()} match no known layout",
            code="task-kind",
            hint=columns_hint(first),
        )
    return KINDS[kind].profile, KINDS[kind].options


def _kind(
    adapters: Sequence[AdapterInput], task: Task | ChatTask | None, request: EvaluateSettings
) -> ModelType:
    """Return the kind of model that the adapters need. An adapter without a task type has the others' kind, or causal.

    Raises UsageError (`wrong-model`) for a kind that does not fit the task or the first adapter, InputError
    (`labels-differ`) for a head with another number of labels.
    """
    fitting = "SEQ_CLS" if isinstance(task, ClassificationTask) else "CAUSAL_LM"
    for adapter in adapters:
        kind, data = adapter.fields.get("task_type"), request.data_file
        if kind == "SEQ_CLS" and kind != fitting and data is not None and request.task is None:
            row = next(local(data, request.columns).read())
            raise UsageError(
                f"{adapter.given}: a classifier, and the columns {row.named()} of {data} are not read as texts with"
                " labels",
                code="wrong-model",
                hint=columns_hint(row),
            )
        if kind is not None and kind != fitting:
            raise UsageError(
                f"{adapter.given}: its task_type is {kind}, and {task.name if task else 'a prompt'} needs {fitting}",
                code="wrong-model",
                hint="choose a task of the adapter's kind"
                if request.prompts is None
                else "--prompts needs a causal language model: give a classifier --data with labels",
            )
        if not isinstance(task, ClassificationTask):
            continue
        labels = len(task.label_names)
        if adapter.labels and labels not in adapter.labels:
            raise InputError(
                f"{adapter.given}: its head has {counted(min(adapter.labels), 'label')}, and {task.name} has {labels}"
                f" ({', '.join(task.label_names[:5])})",
                code="labels-differ",
                hint="check the label column, or list the labels with --option label_names=…",
            )
    return "seqcls" if isinstance(task, ClassificationTask) else "causal_lm"


# ---------------------------------------------------------------- dev and test halves, for a search


def split(inputs: EvaluateInputs) -> tuple[EvaluateInputs, EvaluateInputs]:
    """Return the dev rows and the test rows: a task's own if it has dev examples, else halves by their text.

    Groups stay whole. Raises UsageError (`too-few-rows`).
    """
    examples = tuple(inputs.examples)
    dev = inputs.task.examples.of("dev", inputs.request.limit) if inputs.role == "confirm" else ()
    if not dev:
        group_of = {row.id: inputs.group_of.get(row.id, row.id) for row in examples}
        last_first = sorted(examples, key=_text_of, reverse=True)
        first = {group_of[row.id]: _text_of(row) for row in last_first}
        is_dev = {row.id: in_first_half(f"dev\0{first[group_of[row.id]]}") for row in examples}
        dev = tuple(row for row in examples if is_dev[row.id])
        examples = tuple(row for row in examples if not is_dev[row.id])
    if not dev or not examples:
        raise UsageError(
            f"{inputs.task.name}: {len(inputs.examples)} examples are too few for a dev half and a test half",
            code="too-few-rows",
            hint="give a few hundred examples",
        )
    request = replace(inputs.request, no_ledger=True, all_rows=True)
    return replace(inputs, examples=dev, looks=(), group_of={}, request=request), replace(
        inputs, examples=examples
    )


def with_adapters(inputs: EvaluateInputs, adapters: Sequence[AdapterInput]) -> EvaluateInputs:
    """Return a data set with other adapters, and the looks of its examples."""
    return with_looks(replace(inputs, adapters=tuple(adapters)))
