"""Examples from files and from the hub: rows with their locations for errors, their layouts, and their kinds.

Columns of well-known data sets are read as the kinds of rows that tasks take. The first row decides the layout of a
file. A layout adds our columns (`prompt`, `answer`, `messages`, `choices`, `text`, `label`) to each row and keeps the
file's own, so that a task can still be given columns by name.

Two prompts that differ in case, accents, punctuation or spacing always get the same role, so that none is trained on
and evaluated with; but only equal prompts are the same example: `3 - 4` is not `3 + 4`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gradience.digests import sha256_file, sha256_text
from gradience.errors import InputError, NetworkError, UsageError, did_you_mean, require
from gradience.files import strict_json
from gradience.files.rows import SUFFIXES, is_on_hub, rows_of
from gradience.models.local_only import would_fetch
from gradience.reading import MAX_DATA_BYTES, check_regular
from gradience.reports.bench_plan import Role
from gradience.tasks.examples import Example, Examples, content_id, prepare, role_of, with_dev
from gradience.words import counted, first_line


@dataclass(frozen=True, slots=True)
class Row:
    """One row and its position in the file."""

    place: str
    """`reviews.csv: line 12`, for errors."""
    values: Mapping[str, object]

    def value(self, column: str, *, chosen: bool = False) -> object:
        """Return the value of `column`. Raises InputError (`task-column`).

        chosen: the user named the column.
        """
        if column not in self.values:
            names = f"the columns are {', '.join(f'`{name}`' for name in self.values)}"
            raise InputError(
                f"{self.place}: no column `{column}`",
                code="task-column",
                hint=did_you_mean(
                    column, self.values, names if chosen else f"{names}: rename one to `{column}`"
                ),
            )
        return self.values[column]

    def text(self, column: str) -> str:
        """Return the text in `column`, unchanged. Raises InputError (`task-column`, `task-text`)."""
        text = self.value(column)
        if not isinstance(text, str):
            raise self.wrong(column, f"contains {json.dumps(text, default=str)[:40]}, which is not text")
        if not text.strip():
            raise self.wrong(column, "is empty")
        return text

    def answer(self, column: str = "answer") -> str:
        """Return the text in `column`, unchanged; numbers become text. Raises InputError (`task-column`,
        `task-text`)."""
        value = self.value(column)
        return (
            str(value)
            if isinstance(value, int | float) and not isinstance(value, bool)
            else self.text(column)
        )

    def items(self, column: str, noun: str, least: int) -> Sequence[Any]:
        """The list in `column`: a JSON list, or in CSV the text of one. Raises InputError (`task-text`)."""
        value = self.value(column)
        if isinstance(value, str):
            try:
                value = strict_json.parse(value)
            except ValueError:
                raise self.wrong(column, "is not a JSON list") from None
        if not isinstance(value, list) or len(value) < least:
            raise self.wrong(column, f"is not a list of at least {counted(least, noun)}")
        return value

    @property
    def id(self) -> str | None:
        """Return the row's own id; None if it has none. Raises InputError (`task-id`)."""
        value = self.values.get("id")
        if isinstance(value, str | int) and not isinstance(value, bool):
            return self.text("id") if isinstance(value, str) and value.strip() else str(value).strip() or None
        if value is None:
            return None
        raise InputError(
            f"{self.place}: the id is {value!r:.40}, which is neither a text nor a whole number",
            code="task-id",
            hint="write it in quotes, or remove it",
        )

    def has(self, column: str) -> bool:
        """Return True if `column` has a value: not null, and not blank in CSV, which has every column in
        every row.
        """
        value = self.values.get(column)
        return bool(value.strip()) if isinstance(value, str) else value is not None

    def wrong(self, column: str, problem: str) -> InputError:
        """Return the error (`task-text`) for an unusable row. what: the problem with the column."""
        return InputError(
            f"{self.place}: column `{column}` {problem}",
            code="task-text",
            hint="remove the row, or correct its text",
        )


@dataclass(frozen=True, slots=True)
class RowTable:
    """The rows of one file or split, with their metadata."""

    read: Callable[[], Iterator[Row]]
    """Begins to read the rows."""
    source: str
    """Name and version: for a file its sha256, on the hub the revision if one was requested."""


Tables = Mapping[Role | None, RowTable]
"""By role, what confirms first; under None what the identities split."""


# ---------------------------------------------------------------- files


def local(path: Path, columns: Mapping[str, str] | None = None) -> RowTable:
    """Return the rows of a file, of a folder saved by `datasets`, or of `hf://org/name[:split]`, read on demand.

    columns: see `laid_out`.
    Raises InputError (`task-file`; while reading also `task-row`), and as `hub` does.
    """
    if is_on_hub(path):
        name, _, split = "/".join(path.parts[1:]).partition(":")
        table = hub(name, split or None)
    elif path.is_dir():
        table = _saved(path)
    else:
        table = _file(path)
    return replace(table, read=lambda: laid_out(table.read(), columns))


def _file(path: Path) -> RowTable:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: unknown file extension",
            code="task-file",
            hint=f"rename it with the extension of its format: {', '.join(SUFFIXES)}",
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file", code="task-file", hint="check the path")
    check_regular(path, limit=MAX_DATA_BYTES)
    return RowTable(
        lambda: (Row(place, values) for place, values in rows_of(path)),
        f"{path.name} sha256:{sha256_file(path)}",
    )


SAVED = ("state.json", "dataset_dict.json")
"""One of these is in a folder that `datasets` saved."""


def _saved(path: Path) -> RowTable:
    """A folder written by `save_to_disk`; of several splits the one to evaluate."""
    hint = "give a file of rows, or a folder that `Dataset.save_to_disk` wrote"
    if not any((path / name).is_file() for name in SAVED):
        raise InputError(f"{path} is a folder without examples", code="task-file", hint=hint)
    datasets = require("datasets", extra="hf")
    try:
        loaded = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"{path}: {first_line(error)}", code="task-file", hint=hint) from None
    split = ""
    if isinstance(loaded, dict):
        split = evaluated_split(loaded)
        loaded = loaded[split]
    name = f"{path.name} {split}".strip()
    return _loaded(loaded, name, f"{name} fingerprint:{loaded._fingerprint}")


def evaluated_split(splits: Iterable[str]) -> str:
    """Return the split to evaluate: test, validation, or the first one."""
    names = list(splits)
    return next((name for name in ("test", "validation") if name in names), names[0])


def _loaded(loaded: Any, name: str, source: str) -> RowTable:
    """Return a loaded data set as a table."""
    return RowTable(
        lambda: (Row(f"{name}: row {number}", values) for number, values in enumerate(loaded)), source
    )


# ---------------------------------------------------------------- the hub


def hub(
    dataset: str, split: str | None, *, subset: str | None = None, revision: str | None = None
) -> RowTable:
    """The rows of a split of a data set on the hub, or of a folder that looks like one.

    split: None is the one to evaluate.
    Raises MissingExtra; NetworkError (`task-dataset`) when the hub cannot be reached or has no such data
    set; InputError (`task-dataset`) when the data set has no such subset or split, or cannot be read.
    """
    if not Path(dataset).is_dir():
        would_fetch(f"{dataset} (from the hub)")
    datasets = require("datasets", extra="hf")
    name = f"{dataset}{f'/{subset}' if subset else ''} {split or ''}".rstrip()
    with dataset_errors(name, ValueError, RuntimeError):  # of an unknown subset or split, or a loading script
        if split is None:
            split = evaluated_split(datasets.get_dataset_split_names(dataset, subset, revision=revision))
            name = f"{name} {split}"
        loaded = datasets.load_dataset(dataset, subset, split=split, revision=revision)
    return _loaded(loaded, name, name + (f" revision:{revision}" if revision else ""))


@contextmanager
def dataset_errors(name: str, *more: type[Exception]) -> Iterator[None]:
    """Convert what `datasets` raises for the data set `name`. more: further errors that mean unreadable data.

    Raises NetworkError if it cannot be reached, InputError if it cannot be read (both `task-dataset`).
    """
    datasets = require("datasets", extra="hf")
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (ConnectionError, HfHubHTTPError, datasets.exceptions.DatasetNotFoundError) as error:
        raise NetworkError(
            f"{name}: {first_line(error)}",
            code="task-dataset",
            hint="check the name, the network and `hf auth login`, or use local files with the same rows",
        ) from None
    except (datasets.exceptions.DatasetsError, FileNotFoundError, *more) as error:
        raise InputError(
            f"{name}: its data cannot be read: {first_line(error)}",
            code="task-dataset",
            hint="check subset, split and paths, or use local files with the same rows",
        ) from None


# ---------------------------------------------------------------- layouts


Values = dict[str, object]
Layout = Callable[[Row], Values]
"""Returns the columns that a row gets in addition."""

PROMPTS: Mapping[str, tuple[str, ...]] = {
    "instruction": ("input", "context"),
    "question": ("context", "passage"),
    "query": (),
    "prompt": (),
    "problem": (),
    "input": (),
    "article": (),
    "document": (),
    "dialogue": (),
    "goal": (),
    "ctx": (),
}
"""Column of a prompt -> columns that follow it after a blank line if they have a text."""
ANSWERS = ("answer", "output", "response", "completion", "solution", "target", "summary", "highlights")
TEXTS = {
    "text": "text_pair",
    "question": "sentence",
    "sentence": None,
    "review": None,
    "content": None,
    "sentence1": "sentence2",
    "premise": "hypothesis",
    "question1": "question2",
}
"""Column of a text to label -> that of the second text of a pair."""
LABELS = ("label", "labels", "category", "sentiment", "intent", "class")
SYSTEMS = ("system", "system_prompt")
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
"""Names of speakers in ShareGPT's layout -> roles."""
COLUMNS = ("prompt", "answer", "completion", "text", "text_pair", "label", "messages", "choices", "id")
"""Columns that `--columns` can name."""


def laid_out(rows: Iterator[Row], columns: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Yield the rows with our columns added.

    >>> row = Row("a.jsonl: line 1", {"instruction": "Add.", "input": "1 + 1", "output": "2"})
    >>> next(laid_out(iter([row]))).text("prompt")
    'Add.\\n\\n1 + 1'

    columns: our name -> the file's, as `--columns prompt=Q,answer=A`; the rest is then not guessed.
    Raises InputError: `task-columns` (an unknown name of ours), `task-column` (the file has no such column).
    """
    layout: Layout | None = None
    for number, row in enumerate(rows):
        if number == 0:
            layout = _named(columns) if columns else layout_of(row)
        yield row if layout is None else replace(row, values={**row.values, **layout(row)})


def layout_of(row: Row) -> Layout | None:
    """Return the layout of a file with this first row; None if its columns are ours already, or unknown."""
    answer = next(filter(row.has, ANSWERS), None)
    prompt = next(filter(row.has, PROMPTS), None)
    source = next(filter(row.has, ("messages", "conversations")), None)
    if source is not None:
        return lambda row: {"messages": _messages(row, source)}
    if row.has("chosen"):
        return _chosen
    if isinstance(row.values.get("prompt"), list) and isinstance(row.values.get("completion"), list):
        return lambda row: {"messages": _messages(row, "prompt", "completion")}
    if prompt is not None and (row.has("choices") or row.has("endings")):
        return lambda row: _choices(row, prompt)
    # Beside a question with its answer, a category is no label.
    texts = [name for name in TEXTS if name != "question" or answer is None or row.has("sentence")]
    text, label = next(filter(row.has, texts), None), next(filter(row.has, LABELS), None)
    if text is not None and label is not None:
        return None if (text, label) == ("text", "label") else lambda row: _labeled(row, text, label)
    if row.has("prompt") and (row.has("completion") or row.has("answer")):
        return None
    if prompt is None or answer is None or prompt == answer or not _is_plain(row.values[answer]):
        return None
    if any(name in row.values for name in (*SYSTEMS, "history")):
        return lambda row: {"messages": _turns(row, prompt, answer)}
    return lambda row: {"prompt": _prompt(row, prompt), "answer": row.value(answer)}


def _named(columns: Mapping[str, str]) -> Layout:
    for ours in columns:
        if ours not in COLUMNS:
            raise InputError(
                f"--columns {ours}={columns[ours]}: `{ours}` is not a field that Gradience knows",
                code="task-columns",
                hint=did_you_mean(ours, COLUMNS, f"write FIELD=COLUMN; the fields are {', '.join(COLUMNS)}"),
            )
    return lambda row: {ours: row.value(theirs, chosen=True) for ours, theirs in columns.items()}


def columns_hint(row: Row, *, labels: bool = False) -> str:
    """Return the option that names the columns of a file whose layout is unknown. labels: the model is a classifier."""
    names = [name for name, value in row.values.items() if _is_plain(value) and name != "id"]
    if len(names) < 2:
        return "give each row `text` and `label`" + ("" if labels else ", or `prompt` and `answer`")
    first, second = (f"'{name}'" if not name.isidentifier() else name for name in names[:2])
    classifier = f"--columns text={first},label={second}"
    if labels:
        return f"add {classifier}"
    return (
        f"add --columns prompt={first},answer={second} for a language model, or {classifier} for a classifier"
    )


def _prompt(row: Row, column: str) -> str:
    more = [str(row.values[name]) for name in PROMPTS[column] if row.has(name)]
    return "\n\n".join([row.text(column), *more])


def _turns(row: Row, prompt: str, answer: str) -> list[Values]:
    """System text and earlier turns, as LLaMA-Factory and OpenOrca have them, before prompt and answer."""
    system = next((str(row.values[name]) for name in SYSTEMS if row.has(name)), None)
    turns: list[Values] = [] if system is None else [{"role": "system", "content": system}]
    history = row.values.get("history")
    for pair in history if isinstance(history, list) else []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise row.wrong("history", "is not a list of [prompt, answer] pairs")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return [
        *turns,
        {"role": "user", "content": _prompt(row, prompt)},
        {"role": "assistant", "content": row.text(answer)},
    ]


def _messages(row: Row, *columns: str) -> list[Any]:
    """Messages with `role` and `content`; ShareGPT has `from` and `value`, and names of its own."""
    messages = []
    for message in (each for column in columns for each in row.items(column, "message", 1)):
        if isinstance(message, dict):
            role = message.get("role", message.get("from"))
            content = message.get("content", message.get("value"))
            message = {"role": ROLES.get(str(role), role), "content": content}
        messages.append(message)
    return messages


def _chosen(row: Row) -> Values:
    """The chosen side of preference data: messages, or texts; without a prompt the two texts begin with it."""
    chosen, prompt = row.value("chosen"), row.values.get("prompt")
    if isinstance(chosen, list):
        return {"messages": _messages(row, *(["prompt"] if isinstance(prompt, list) else []), "chosen")}
    if prompt is not None:
        return {"prompt": row.text("prompt"), "answer": row.text("chosen")}
    chosen, rejected = row.text("chosen"), row.text("rejected")
    length = next((i for i, pair in enumerate(zip(chosen, rejected, strict=False)) if len({*pair}) > 1), 0)
    shared = chosen[:length]
    end = len(shared.rstrip()) if shared[-1:].isspace() else shared.rfind(" ")
    if end <= 0 or not chosen[end:].strip():
        raise row.wrong("chosen", "does not begin with a prompt that `rejected` begins with as well")
    return {"prompt": chosen[:end], "completion": chosen[end:]}


def _choices(row: Row, prompt: str) -> Values:
    """Questions with choices: a list, or ARC's texts and letters; HellaSwag has endings and the place of one."""
    choices = row.value("endings" if row.has("endings") else "choices")
    answer = next((row.values[name] for name in ("answer", "answerKey", "label") if row.has(name)), None)
    if isinstance(choices, dict):
        letters, choices = choices.get("label"), choices.get("text")
        if not isinstance(letters, list) or answer not in letters:
            raise row.wrong("answerKey", f"is {answer!r:.40}, which is not among the labels of `choices`")
        answer = letters.index(answer)
    if isinstance(answer, str) and answer.strip().isdecimal() and not row.has("answer"):
        answer = int(answer)
    return {"prompt": row.text(prompt), "choices": choices, "answer": answer}


def _labeled(row: Row, text: str, label: str) -> Values:
    second = TEXTS[text]
    pair = {} if second is None or not row.has(second) else {"text_pair": row.text(second)}
    return {"text": row.text(text), "label": row.value(label), **pair}


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float)


# ---------------------------------------------------------------- which rows play which role


def tables_of(
    file: Path | None,
    *,
    train: Path | None,
    dev: Path | None,
    confirm: Path | None,
    columns: Mapping[str, str] | None = None,
) -> dict[Role | None, RowTable]:
    """The files of a task as tables by role, in the order in which a text keeps its first role.

    Raises UsageError (`task-files`) unless there is either a single file, or one for train and one for confirm; and
    what `local` raises.
    """
    files: dict[Role | None, Path | None] = {None: file, "confirm": confirm, "dev": dev, "train": train}
    given = {role: path for role, path in files.items() if path is not None}
    if given.keys() != {None} and (None in given or not {"confirm", "train"} <= given.keys()):
        raise UsageError(
            "training and evaluation data cannot be distinguished",
            code="task-files",
            hint="give one `file`, which is split, or `train_file` and `confirm_file`, with or without `dev_file`",
        )
    return {role: local(path, columns) for role, path in given.items()}


def train_and_confirm(
    train_file: Path | None,
    confirm_file: Path | None,
    *,
    dataset: str,
    subset: str,
    split: str,
    revision: str | None,
) -> dict[Role, RowTable]:
    """Return what trains and what confirms: two files, or `train` and `split` of a data set on the hub.

    What confirms comes first: the first spelling of a text stays, so what train repeats falls out of train.
    Raises UsageError (`task-files`) for one file without the other, and what `local` and `hub` raise.
    """
    if (train_file is None) != (confirm_file is None):
        raise UsageError(
            f"only one of `train_file` and `{split.partition('_')[0]}_file` is given",
            code="task-files",
            hint="give both, or neither to load the data set from the hub",
        )
    if train_file and confirm_file:
        return {"confirm": local(confirm_file), "train": local(train_file)}
    return {
        "confirm": hub(dataset, split, subset=subset, revision=revision),
        "train": hub(dataset, "train", subset=subset, revision=revision),
    }


def sources_of(tables: Mapping[Any, RowTable]) -> dict[str, str]:
    """Return the provenance of a task's data, by role."""
    return {role or "all": table.source for role, table in tables.items()}


# ---------------------------------------------------------------- kinds of rows

Kind = Literal["prompts", "choices", "labels", "messages", "texts", "asked"]


@dataclass(frozen=True, slots=True)
class Fields:
    """Required fields for one kind of row."""

    needed: tuple[str, ...]
    one_of: tuple[str, ...] = ()
    """At least one of these as well."""
    profile: str = "jsonl"
    """The task that reads them."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options that it needs."""

    @property
    def words(self) -> str:
        """The fields, for an error: `prompt` and `completion` or `answer`."""
        alternatives = [" or ".join(f"`{name}`" for name in self.one_of)] if self.one_of else []
        return " and ".join([*(f"`{name}`" for name in self.needed), *alternatives])

    def are_in(self, row: Row) -> bool:
        """Return True if the row has these fields."""
        return all(map(row.has, self.needed)) and (not self.one_of or any(map(row.has, self.one_of)))


KINDS: Mapping[Kind, Fields] = {
    "messages": Fields(("messages",), profile="chat"),
    "choices": Fields(("prompt", "choices", "answer"), options={"scorer": "multiple_choice"}),
    "labels": Fields(("text", "label"), profile="classification"),
    "prompts": Fields(("prompt",), ("completion", "answer")),
    "texts": Fields(("text",), options={"scorer": "nll"}),
    "asked": Fields((), ("prompt", "messages")),
}
"""Kinds of rows, most specific first: a row of choices also has a prompt and an answer. `asked` has no answer, or one
that is not read."""


def kind_of(row: Row) -> Kind | None:
    """Return the kind of row that its fields match; None if they match none."""
    return next((kind for kind, fields in KINDS.items() if kind != "asked" and fields.are_in(row)), None)


def checked(table: RowTable, kind: Kind) -> Iterator[Row]:
    """The rows of `table`, each of them of this kind, with an id of its own or none.

    Raises InputError: `task-column` (a field is missing), `task-kind` (rows of another kind, or of two), `task-id` (not
    a text or a number, or there twice), and what `local` raises.
    """
    ids: dict[str, str] = {}
    shape: frozenset[str] | None = None

    def names(fields: Iterable[str]) -> str:
        return " and ".join(f"`{name}`" for name in sorted(fields))

    for row in table.read():
        if not KINDS[kind].are_in(row):
            raise _not_of(kind, row)
        present = frozenset(filter(row.has, KINDS[kind].one_of))
        if shape not in (None, present):
            raise InputError(
                f"{row.place}: has {names(present)}, but earlier rows have {names(shape or ())}",
                code="task-kind",
                hint="give all rows of a file the same fields",
            )
        shape = present
        key = row.id
        if key is not None and ids.setdefault(key, row.place) != row.place:
            raise InputError(
                f"{row.place}: the id {key[:80]!r} is also that of {ids[key].rpartition(': ')[2]}",
                code="task-id",
                hint="give every row a unique id, or remove the ids",
            )
        yield row


def _not_of(kind: Kind, row: Row) -> InputError:
    """Describe why a row lacks fields of its kind."""
    fields, other = KINDS[kind], kind_of(row)
    if other is not None and (kind, other) != ("labels", "texts"):  # else only the label is missing
        return InputError(
            f"{row.place}: has {KINDS[other].words}, and this task needs {fields.words}",
            code="task-kind",
            hint=f"the task `{KINDS[other].profile}` reads such rows: put them into a file of their own",
        )
    for name in fields.needed:
        row.value(name)  # says which columns there are, and which one is near
    missing = next((name for name in fields.needed if not row.has(name)), None)
    if missing is not None:
        return row.wrong(missing, "is empty")
    return InputError(
        f"{row.place}: neither {' nor '.join(f'`{name}`' for name in fields.one_of)}",
        code="task-text",
        hint=f"give each row {fields.words}; remove rows without an answer",
    )


# ---------------------------------------------------------------- from rows to examples

_GROUP: ContextVar[str | None] = ContextVar("group", default=None)


@contextmanager
def grouped_by(column: str | None) -> Iterator[None]:
    """While this lasts, the examples of a file keep their values in this column: `Examples.groups`."""
    token = _GROUP.set(column)
    try:
        yield
    finally:
        _GROUP.reset(token)


def gather(
    tables: Tables,
    kind: Kind,
    about: Callable[[Row], str],
    make: Callable[[Row, Role], Example],
    dev: int | None,
) -> Examples[Example]:
    """Return the examples of `tables`, with `dev` of them held out of train if there are only train and
    confirm.

    about: the text that a row's identity is computed from; rows that share it have the same role.
    Raises InputError (`task-leak`: a row occurs in two files), UsageError (`task-files`), and the errors of
    `checked`, `make` and `with_dev`.
    """
    ids: dict[str, str] = {}  # of an example -> the id that its row brings
    column, groups = _GROUP.get(), dict[str, str]()

    def all_rows() -> Iterator[Example]:
        first_places: dict[str, tuple[Role | None, str]] = {}
        for role, table in tables.items():
            for row in checked(table, kind):
                text = about(row)
                if len(tables) > 1:
                    before, place = first_places.setdefault(sha256_text(text), (role, row.place))
                    if before != role:
                        raise InputError(
                            f"{row.place}: the same as {place}: a row cannot be in both the {role} and "
                            f"the {before} file",
                            code="task-leak",
                            hint=f"remove it from one of the two files, preferably from {role}",
                        )
                example = make(row, role or role_of(content_id(text)))
                if row.id is not None:
                    ids.setdefault(example.id, row.id)
                if column is not None:
                    groups.setdefault(ids.get(example.id, example.id), row.answer(column))
                yield example

    examples = prepare(all_rows())
    if tables.keys() == {"confirm", "train"}:
        examples = with_dev(examples, dev)
    elif dev is not None:
        raise UsageError(
            "`dev` takes examples from `train_file`, but the file already assigns roles",
            code="task-files",
            hint="leave `dev` out",
        )
    if not ids:
        return replace(examples, groups=groups)
    named = tuple(replace(item, id=ids.get(item.id, item.id)) for item in examples.all)
    return replace(examples, all=named, groups=groups)
