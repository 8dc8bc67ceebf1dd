"""A look at the inputs of a run before it: is everything there, how long are the examples, what does one look like?

Nothing is fetched but the config.json of a model on the hub, and code of a user's own is not run.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradience import tasks
from gradience.bench.config.load import BenchConfig
from gradience.errors import InputError, MissingExtra, NetworkError
from gradience.evaluate.checks import lengths
from gradience.evaluate.preview import SHOWN, scored_example, text_and_ids
from gradience.hub.address import Address
from gradience.hub.failures import explained
from gradience.models.known import KNOWN
from gradience.models.load import from_folder, load_tokenizer
from gradience.models.local_only import NotHereError, local_only
from gradience.models.locate import EMBEDDED, hub_address, locate, require_weights
from gradience.models.rendering import encode_pair
from gradience.models.settings import ModelSettings
from gradience.reports.forecast import Check, RenderedExample, ScoredExample
from gradience.tasks import user_code
from gradience.tasks.base import ChatTask, ClassificationTask, Task
from gradience.training.encode import encode, labels_of
from gradience.words import counted

HUB_SECONDS = 5
"""How long the hub may take to answer."""
CHARACTERS = 3.5
"""Of a token of prose, where the tokenizer is not here to count."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the examples, as training and evaluation encode them."""

    train: tuple[int, ...]
    """Of each train example that fits, its response and the end token included."""
    prompts: tuple[int, ...]
    """Of each example that decides; for texts to label the whole text."""
    responses: tuple[int, ...] = ()
    """Of their gold responses with the end token; empty for texts to label."""
    counted: bool = True
    """False: guessed from the characters, since the tokenizer is not here."""


@dataclass(slots=True)
class Preview:
    """The inputs of a run as far as they are on this machine, and a check for each."""

    checks: list[Check] = field(default_factory=list)
    shape: Any = None
    """transformers' config of the base; None where it is not known here."""
    task: Task | None = None
    """None where its data are not here, it is code of the user's own, or a chat whose template is not here."""
    lengths: Lengths | None = None
    """None where the task is not here."""
    example: RenderedExample | None = None
    scored: tuple[ScoredExample, ...] = ()
    """The first of the examples that decide."""


def look(config: BenchConfig) -> Preview:
    """See what is here of the inputs of `config`.

    Raises what the run would raise for what is not there: InputError for a task, a file, a folder or a model that does
    not exist or cannot be read, NetworkError for what the hub does not have, UsageError where task and model do not
    fit together. A hub that cannot be reached is no error: the check says `not checked`.
    """
    seen = Preview()
    with local_only():
        seen.shape = _model(config.model, seen.checks)
        task = _task(config, seen.checks)
        tokenizer = None if task is None else _tokenizer(config.model, seen.checks)
        if isinstance(task, ChatTask):
            task = None if tokenizer is None else task.rendered(tokenizer)
        seen.task = task
        if seen.task is not None:
            labels_of(seen.task, config.model)
            seen.example = _rendered(seen.task, tokenizer)
            deciding = seen.task.examples.of(config.task.eval_role, SHOWN)
            seen.scored = tuple(scored_example(seen.task, one, tokenizer) for one in deciding)
            if tokenizer is None:
                seen.lengths = _guessed(config, seen.task)
            else:
                seen.lengths, too_long = _lengths(config, seen.task, tokenizer, seen.shape)
                seen.checks = [_with(check, too_long) for check in seen.checks]
    return seen


# ------------------------------------------------------------------ the model


def _model(settings: ModelSettings, checks: list[Check]) -> Any:
    """The shape of the model; None where nobody here knows it."""
    from transformers import AutoConfig

    name, known = settings.name, KNOWN.get(settings.name)
    if name.startswith("embedded:"):
        if name not in EMBEDDED:
            raise InputError(
                f"model.name: there is no {name}",
                code="unknown-model",
                hint=f"use {' or '.join(EMBEDDED)}, a hub name or a folder",
            )
        source: str | None = None
        checks.append(Check(what="model", name=name, state="found", note="of the package index, pinned"))
    elif settings.path.is_dir():
        require_weights(settings.path)
        source = str(settings.path)
        checks.append(Check(what="model", name=name, state="found", note="a folder"))
    elif (address := hub_address(settings)) is None:
        source = str(locate(settings).folder)  # refused, since there is none
    else:
        source = _hub_config(address, checks)
    if source is None:
        return AutoConfig.for_model(**known) if known else None
    return from_folder(AutoConfig, name, Path(source))


def _hub_config(address: Address, checks: list[Check]) -> str | None:
    """The file config.json from the cache or the hub; None when the hub cannot be reached."""
    from huggingface_hub import hf_hub_download, logging

    name, level = str(address), logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it warns of each attempt; what became of them is said below
    try:
        with explained(address):
            path = hf_hub_download(
                address.repo,
                posixpath.join(address.inside, "config.json"),
                revision=address.revision,
                etag_timeout=HUB_SECONDS,
            )
    except NetworkError as error:
        if error.code not in ("hub-offline", "hub-connection"):
            raise
        checks.append(Check(what="model", name=name, state="not checked", note="the hub cannot be reached"))
        return None
    finally:
        logging.set_verbosity(level)
    checks.append(Check(what="model", name=name, state="found", note="on the hub, or in its cache here"))
    return str(path)


def _tokenizer(settings: ModelSettings, checks: list[Check]) -> Any:
    """The tokenizer, where it is here; else None."""
    try:
        return load_tokenizer(settings)
    except (NotHereError, NetworkError):
        checks.append(
            Check(what="tokenizer", name=settings.name, state="not checked", note="it is not here yet")
        )
        return None


# ------------------------------------------------------------------ the task


def _task(config: BenchConfig, checks: list[Check]) -> Task | ChatTask | None:
    profile = config.task.profile
    code = tasks.code_of(profile, config.task.place)
    if code is not None:
        allowed = "allowed" if user_code.is_allowed() else "not allowed: it needs --allow-code"
        note = f"the run executes it ({allowed}); a dry run does not"
        checks.append(Check(what="code", name=code.name, state="found", note=note))
        return None
    try:
        task = config.task.load()
    except NotHereError as error:
        checks.append(Check(what="data", name=profile, state="not checked", note=f"not here yet: {error}"))
        return None
    except MissingExtra as error:
        checks.append(Check(what="data", name=profile, state="not checked", note=f"{error}: {error.hint}"))
        return None
    checks.append(Check(what="data", name=profile, state="found", note=_counts(task)))
    return task


def _counts(task: Task | ChatTask) -> str:
    roles = ("train", "dev", "confirm")
    shown = ", ".join(f"{len(task.examples.of(role)):,} {role}" for role in roles)  # type: ignore[arg-type]
    left_out = [
        f"{counted(number, what)} left out"
        for key, what in (("duplicates", "repeated row"), ("conflicts", "row of contradicting ones"))
        if (number := task.examples.counts.get(key, 0))
    ]
    return "; ".join([shown, *left_out])


def _rendered(task: Task, tokenizer: Any) -> RenderedExample:
    """The first train example, as the model sees it where its tokenizer is here."""
    first: Any = task.examples.of("train")[0]
    if isinstance(task, ClassificationTask):
        prompt, ids = text_and_ids(first, tokenizer)
        return RenderedExample(
            id=first.id,
            prompt=prompt,
            response=task.label_names[first.label],
            tokens=len(ids) if ids else None,
        )
    if tokenizer is None:
        return RenderedExample(id=first.id, prompt=first.prompt, response=first.response, tokens=None)
    before, after = encode_pair(tokenizer, first.prompt, first.response)
    return RenderedExample(
        id=first.id,
        prompt=tokenizer.decode(before),
        response=tokenizer.decode(after),
        tokens=len(before) + len(after),
    )


def _guessed(config: BenchConfig, task: Task) -> Lengths:
    limit = config.train.max_length
    train: Sequence[Any] = task.examples.of("train", config.train.train_samples)
    deciding: Sequence[Any] = task.examples.of(config.task.eval_role, config.task.eval_samples)
    if isinstance(task, ClassificationTask):
        texts = [
            [min(limit, _tokens(one.text + (one.text_pair or ""))) for one in some]
            for some in (train, deciding)
        ]
        return Lengths(tuple(texts[0]), tuple(texts[1]), counted=False)
    whole = [_tokens(one.prompt) + _tokens(one.response) for one in train]
    return Lengths(
        tuple(length for length in whole if length <= limit) or (limit,),
        tuple(_tokens(one.prompt) for one in deciding),
        tuple(_tokens(one.response) for one in deciding),
        counted=False,
    )


def _tokens(text: str) -> int:
    return 1 + round(len(text) / CHARACTERS)


def _with(check: Check, too_long: Sequence[str]) -> Check:
    """The check of the data, with what is to be said of examples that are too long."""
    if check.what != "data":
        return check
    return check.model_copy(update={"note": "; ".join([check.note, *too_long])})


def _lengths(config: BenchConfig, task: Task, tokenizer: Any, shape: Any) -> tuple[Lengths, list[str]]:
    """Tokens of the examples, and what is to be said of those that are too long."""
    limit = config.train.max_length
    trained = task.examples.of("train", config.train.train_samples)
    encoded = encode(tokenizer, task, trained, limit)
    train = tuple(len(row["input_ids"]) for row in encoded.features)
    too_long = [
        f"{number:,} of {len(trained):,} training examples exceed `train.max_length: {limit}` and are {fate}"
        for number, fate in ((encoded.left_out, "left out"), (encoded.truncated, "cut"))
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
