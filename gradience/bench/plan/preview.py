"""A look at the inputs of a run before it: is everything there, how long are the examples, what does one look like?

Nothing is fetched but the config.json of a model on the hub, and code of a user's own is not run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gradience import tasks
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.guards import read_guards
from gradience.errors import MissingExtra, NetworkError
from gradience.evaluate.checks import lengths
from gradience.evaluate.forecast import SHOWN, scored_example
from gradience.evaluate.verb import planned_set
from gradience.files.hub import fetch_folder
from gradience.files.shared_names import path_text, sentence_text
from gradience.models.known import KNOWN
from gradience.models.load import from_folder, load_tokenizer
from gradience.models.local_only import NotHereError, local_only
from gradience.models.locate import EMBEDDED, hub_address, locate, require_weights
from gradience.models.rendering import encode_pair
from gradience.models.settings import ModelSettings
from gradience.reports.bench_plan import Role
from gradience.reports.forecast import Check, ScoredExample
from gradience.tasks import user_code
from gradience.tasks.base import ChatTask, ClassificationTask, Task
from gradience.training.encode import encode, labels_of
from gradience.words import counted

What = Literal["model", "tokenizer", "data", "guard", "code"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the examples, as training and evaluation encode them."""

    train: tuple[int, ...]
    """Tokens of each train example that fits, including its response and the end token."""
    prompts: tuple[int, ...]
    """Tokens of each deciding prompt; of the whole text for label tasks."""
    responses: tuple[int, ...] = ()
    """Tokens of the gold responses with the end token; empty for label tasks."""


@dataclass(slots=True)
class LocalInputs:
    """The inputs of a run as far as they are on this machine, and a check for each."""

    checks: list[Check] = field(default_factory=list)
    shape: Any = None
    """transformers' config of the base; None if it is not available locally."""
    task: Task | None = None
    """None if its data are not available locally, it is the user's own code, or it is a chat whose template
    is missing.
    """
    lengths: Lengths | None = None
    """None if the task or its tokenizer is not available locally."""
    scored: tuple[ScoredExample, ...] = ()
    """The first of the examples that decide."""

    def check(self, subject: What, name: str, state: Literal["found", "not checked"], note: str) -> None:
        """Report if an input is available."""
        self.checks.append(Check(what=subject, name=path_text(name), state=state, note=sentence_text(note)))


def look(config: BenchConfig) -> LocalInputs:
    """Check which inputs of `config` are available locally.

    Raises what the run would raise for missing inputs: InputError for a task, a file, a folder or a model
    that does not exist or cannot be read, NetworkError for anything missing on the hub, UsageError if task
    and model do not fit together. An unreachable hub is not an error: the check says `not checked`.
    """
    preview = LocalInputs()
    with local_only():
        preview.shape = _model(config.model, preview)
        task, tokenizer = _task(config, preview), None
        if task is not None:
            try:
                tokenizer = load_tokenizer(config.model)
            except (NotHereError, NetworkError):
                preview.check("tokenizer", config.model.name, "not checked", "it is not here yet")
        if isinstance(task, ChatTask):
            task = None if tokenizer is None else task.rendered(tokenizer)
        preview.task = task
        _guards(config, preview)
        if task is not None:
            labels_of(task, config.model)
            deciding = task.examples.of(config.task.eval_role, SHOWN)
            preview.scored = tuple(scored_example(task, example, tokenizer) for example in deciding)
            if tokenizer is not None:
                preview.lengths, too_long = _lengths(config, task, tokenizer, preview.shape)
                for place, check in enumerate(preview.checks):
                    if check.what == "data":
                        note = "; ".join([check.note, *too_long])
                        preview.checks[place] = check.model_copy(update={"note": note})
    return preview


# ------------------------------------------------------------------ the model


def _model(settings: ModelSettings, preview: LocalInputs) -> Any:
    """Return the shape of the model; None if it is not available locally."""
    from transformers import AutoConfig

    name = settings.name
    is_here = name.startswith("embedded:") or settings.path.is_dir()
    address = None if is_here else hub_address(settings)
    if name in EMBEDDED:
        preview.check("model", name, "found", "a pinned package")
        return AutoConfig.for_model(**KNOWN[name])
    if address is None:
        folder = locate(settings).folder
        require_weights(folder)
        preview.check("model", name, "found", "a folder")
    else:
        try:
            folder, _ = fetch_folder(address, ("config.json",))
        except NetworkError as error:
            if error.code not in ("hub-offline", "hub-connection"):
                raise
            preview.check("model", str(address), "not checked", "the hub cannot be reached")
            return AutoConfig.for_model(**KNOWN[name]) if name in KNOWN else None
        preview.check("model", str(address), "found", "on the hub, or in its cache here")
    return from_folder(AutoConfig, name, folder)


# ------------------------------------------------------------------ the task


def _task(config: BenchConfig, preview: LocalInputs) -> Task | ChatTask | None:
    profile = config.task.profile
    code = tasks.code_of(profile, config.task.place)
    if code is not None:
        allowed = "allowed" if user_code.is_allowed() else "not allowed: it needs --allow-code"
        preview.check("code", code.name, "found", f"the run executes it ({allowed}); a dry run does not")
        return None
    try:
        task = config.task.load()
    except NotHereError as error:
        preview.check("data", profile, "not checked", f"not here yet: {error}")
        return None
    except MissingExtra as error:
        preview.check("data", profile, "not checked", f"{error}: {error.hint}")
        return None
    roles: tuple[Role, ...] = ("train", "dev", "confirm")
    notes = [", ".join(f"{len(task.examples.of(role)):,} {role}" for role in roles)]
    for key, noun in (("duplicates", "repeated row"), ("conflicts", "row of contradicting ones")):
        if number := task.examples.counts.get(key, 0):
            notes.append(f"{counted(number, noun)} left out")
    preview.check("data", profile, "found", "; ".join(notes))
    return task


def _guards(config: BenchConfig, preview: LocalInputs) -> None:
    for name, guard in config.guards.items():
        called = f"{name}: {guard.source}"
        try:
            planned = planned_set(read_guards(config.model_copy(update={"guards": {name: guard}}))[0])
        except (NotHereError, MissingExtra, NetworkError) as error:
            preview.check("guard", called, "not checked", str(error))
        else:
            note = f"{planned.examples:,} examples, margin {planned.margin_words}"
            preview.check("guard", called, "found", note)


def _lengths(config: BenchConfig, task: Task, tokenizer: Any, shape: Any) -> tuple[Lengths, list[str]]:
    """Return the tokens of the examples, and notes on examples that are too long."""
    limit = config.train.max_length
    trained = task.examples.of("train", config.train.train_samples)
    encoded = encode(tokenizer, task, trained, limit)
    train = tuple(len(row["input_ids"]) for row in encoded.features)
    too_long = [
        f"{number:,} of {len(trained):,} training examples exceed `train.max_length: {limit}` and are {fate}"
        for number, fate in ((encoded.left_out, "left out"), (encoded.truncated, "truncated"))
        if number
    ]
    deciding: Sequence[Any] = task.examples.of(config.task.eval_role, config.task.eval_samples)
    if shape is not None and deciding:
        new = config.task.generation.max_new_tokens
        too_long += lengths(task, deciding, tokenizer, shape=shape, max_length=limit, max_new_tokens=new)
    if isinstance(task, ClassificationTask):
        rows = encode(tokenizer, task, deciding, limit).features
        return Lengths(train, tuple(len(row["input_ids"]) for row in rows)), too_long
    pairs = [encode_pair(tokenizer, item.prompt, item.response) for item in deciding]
    return Lengths(train, tuple(len(p) for p, _ in pairs), tuple(len(r) for _, r in pairs)), too_long
