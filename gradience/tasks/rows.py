"""Examples from files and from the hub: rows with their locations for errors, their layouts, and their kinds.

Columns of well-known data sets are read as the kinds of rows that tasks take. The first row decides the layout of a
file. A layout adds our columns (`prompt`, `answer`, `messages`, `choices`, `text`, `label`) to each row and keeps the
file's own, so that a task can still be given columns by name.

Two prompts that differ in case, accents, punctuation or spacing always get the same role, so that none is trained on
and evaluated with; but only equal prompts are the same example: `3 - 4` is not `3 + 4`.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import Field

from gradience.digests import sha256_file, sha256_text
from gradience.errors import InputError, NetworkError, UsageError, did_you_mean, require
from gradience.files import strict_json
from gradience.files.rows import SUFFIXES, is_on_hub, rows_of
from gradience.models.local_only import would_fetch
from gradience.reading import MAX_DATA_BYTES, check_regular
from gradience.reports.bench_plan import Role
from gradience.tasks.examples import Example, Examples, content_id, prepare, role_of, with_dev
from gradience.words import counted, first_line, listed


@dataclass(frozen=True, slots=True)
class Row:
    """One row and its position in the file."""

    place: str
    """`reviews.csv: line 12`, for errors."""
    values: Mapping[str, object]
    columns: Sequence[str] = ()
    """The file's own columns, where names of ours were guessed; empty otherwise."""

    def named(self) -> str:
        """Return the file's columns in words, for errors."""
        return listed([f"`{name}`" for name in self.columns or self.values], 8)

    def value(self, column: str, *, chosen: bool = False) -> object:
        """Return the value of `column`. Raises InputError (`task-column`).

        chosen: the user named the column.
        """
        if column not in self.values:
            names = f"the columns are {self.named()}"
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


def _saved(path: Path) -> RowTable:
    """A folder written by `save_to_disk`; of several splits the one to evaluate."""
    datasets = require("datasets", extra="hf")
    with dataset_errors(str(path), ValueError):
        loaded = datasets.load_from_disk(str(path))
    split = evaluated_split(loaded) if isinstance(loaded, dict) else ""
    loaded, name = loaded[split] if split else loaded, f"{path.name} {split}".strip()
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


PROMPTS = ("prompt", "instruction", "question", "query", "problem", "input", "ctx")
CONTEXTS = ("input", "context", "passage")
"""Columns that follow a prompt after a blank line if they have a text."""
ANSWERS = ("answer", "output", "response", "completion", "solution", "target", "summary", "highlights")
LABELS = ("label", "labels", "category", "sentiment", "intent", "class")
SYSTEMS = ("system", "system_prompt")
LAYOUTS: Sequence[Mapping[str, Sequence[str]]] = (
    {"messages": ("messages", "conversations")},
    {"prompt": PROMPTS, "answer": ("chosen",)},
    {"messages": ("chosen",)},
    {"prompt": PROMPTS, "choices": ("choices", "endings"), "answer": ("answer", "answerKey", "label")},
    {"text": ("question",), "text_pair": ("sentence",), "label": LABELS},
    {"text": ("sentence1",), "text_pair": ("sentence2",), "label": LABELS},
    {"text": ("premise",), "text_pair": ("hypothesis",), "label": LABELS},
    {"text": ("question1",), "text_pair": ("question2",), "label": LABELS},
    {"text": ("text", "sentence", "review", "content"), "label": LABELS},
    {"prompt": ("prompt",), "completion": ("completion",)},
    {"prompt": PROMPTS, "answer": ANSWERS},
    {"prompt": ("article", "document", "dialogue"), "answer": ANSWERS},
)
"""Layouts of public data sets: our columns -> names that they have there. The first that fits is taken."""
Column = Annotated[
    str, Field(pattern="^(prompt|answer|completion|text|text_pair|label|messages|choices|id)$")
]
"""Columns that `--columns` can name."""


def laid_out(rows: Iterator[Row], columns: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Yield the rows with our columns added.

    >>> row = Row("a.jsonl: line 1", {"instruction": "Add.", "input": "1 + 1", "output": "2"})
    >>> next(laid_out(iter([row]))).text("prompt")
    'Add.\\n\\n1 + 1'

    columns: our name -> the file's, as `--columns prompt=Q,answer=A`; the rest is then not guessed.
    Raises InputError (`task-column`) if the file has no such column.
    """
    layout = columns or None
    for row in rows:
        layout = layout_of(row) if layout is None else layout
        added = {ours: row.value(theirs, chosen=True) for ours, theirs in layout.items() if ours != theirs}
        read = () if columns else tuple(row.values)
        row = replace(row, values={**row.values, **added}, columns=read)
        yield row if columns else replace(row, values={**row.values, **_rewritten(row, layout)})


def layout_of(row: Row) -> dict[str, str]:
    """Return our columns -> those of a file with this first row; empty if its columns are unknown."""
    for layout in LAYOUTS:
        columns = {ours: next(filter(row.has, names), "") for ours, names in layout.items()}
        if all(columns.values()):
            return columns
    return {}


def columns_hint(row: Row) -> str:
    """Return the option that names the columns of a file whose layout is unknown."""
    plain = (name for name, value in row.values.items() if isinstance(value, str | int | float))
    names = [shlex.quote(name) for name in plain if name != "id"]
    if len(names) < 2:
        return "give each row `text` and `label`, or `prompt` and `answer`"
    return (
        f"add --columns prompt={names[0]},answer={names[1]} for a language model, or"
        f" --columns text={names[0]},label={names[1]} for a classifier"
    )


def _rewritten(row: Row, layout: Mapping[str, str]) -> dict[str, object]:
    """Return the columns of ours whose values are written in another way in public data sets."""
    prompt, choices = row.values.get("prompt"), row.values.get("choices")
    answer = row.values.get("completion", row.values.get("answer"))
    if layout.get("messages") == "chosen" and isinstance(row.values["chosen"], str):
        return {"messages": None, **_divided(row)}
    if _are_messages(answer):  # TRL
        messages = [*(prompt if _are_messages(prompt) else []), *answer]
        return {"messages": messages, "completion": None, "answer": None}
    if isinstance(choices, dict):  # ARC
        letters = choices.get("label")
        if not isinstance(letters, list) or answer not in letters:
            raise row.wrong("answerKey", f"is {answer!r:.40}, which is not among the labels of `choices`")
        return {"choices": choices.get("text"), "answer": letters.index(answer)}
    ours_already = all(ours == theirs for ours, theirs in layout.items())
    if "prompt" not in layout or "choices" in layout or ours_already:
        return {}
    contexts = [str(row.values[name]) for name in CONTEXTS if name != layout["prompt"] and row.has(name)]
    prompt = "\n\n".join([row.text("prompt"), *contexts])
    if not any(name in row.values for name in (*SYSTEMS, "history")):
        return {"prompt": prompt}
    system = next(filter(row.has, SYSTEMS), None)  # OpenOrca, LLaMA-Factory
    turns: list[tuple[str, object]] = [] if system is None else [("system", row.text(system))]
    for pair in row.items("history", "turn", 0) if row.has("history") else ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise row.wrong("history", "is not a list of [prompt, answer] pairs")
        turns += zip(("user", "assistant"), pair, strict=True)
    turns += [("user", prompt), ("assistant", row.text("answer"))]
    return {"messages": [{"role": role, "content": content} for role, content in turns], "answer": None}


def _are_messages(value: object) -> TypeGuard[list[dict[str, object]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _divided(row: Row) -> dict[str, object]:
    """Return prompt and completion of `chosen`, a text that begins as `rejected` does (HH-RLHF)."""
    chosen = row.text("chosen")
    pairs = zip(chosen, row.text("rejected"), strict=False)
    shared = "".join(ours for ours, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    prompt = re.match(r".*\S(?=\s)", shared, re.DOTALL)
    if prompt is None:
        raise row.wrong("chosen", "does not begin with a prompt that `rejected` begins with as well")
    return {"prompt": prompt[0], "completion": chosen[prompt.end() :]}


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

    def part(name: str) -> RowTable:
        table = hub(dataset, name, subset=subset, revision=revision)
        return replace(table, read=lambda: laid_out(table.read()))

    return {"confirm": part(split), "train": part("train")}


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
