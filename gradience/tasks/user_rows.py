"""A user's own rows: what each kind must hold, which row plays which role, and an error that says what is wrong where.

Two prompts that differ in case, accents, punctuation or spacing always get the same role, so that none is trained on
and evaluated with; but only equal prompts are the same example: `3 - 4` is not `3 + 4`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from gradience.adapters import strict_json
from gradience.digests import sha256_text
from gradience.errors import InputError, UsageError
from gradience.reports.bench_plan import Role
from gradience.tasks.examples import Example, Examples, content_id, prepare, role_of, with_dev
from gradience.tasks.rows import Row, Table, local
from gradience.words import counted

Kind = Literal["prompts", "choices", "labels", "messages"]
Place = TypeVar("Place", Path, str)
"""A file, or a split of a data set."""


@dataclass(frozen=True, slots=True)
class Fields:
    """What the rows of a kind have."""

    needed: tuple[str, ...]
    one_of: tuple[str, ...] = ()
    """At least one of these as well."""
    profile: str = "jsonl"
    """The task that reads them."""

    @property
    def words(self) -> str:
        """The fields, for an error: `prompt` and `completion` or `answer`."""
        names = [f"`{name}`" for name in self.needed]
        return " and ".join(
            [*names, *([" or ".join(f"`{name}`" for name in self.one_of)] * bool(self.one_of))]
        )

    def are_in(self, row: Row) -> bool:
        """Whether the row has them."""
        return all(map(row.has, self.needed)) and (not self.one_of or any(map(row.has, self.one_of)))


KINDS: Mapping[Kind, Fields] = {
    "messages": Fields(("messages",), profile="chat"),
    "choices": Fields(("prompt", "choices", "answer"), profile="jsonl with `scorer: multiple_choice`"),
    "labels": Fields(("text", "label"), profile="classification"),
    "prompts": Fields(("prompt",), ("completion", "answer")),
}
"""The kinds, the one that says most first: a row of choices has a prompt and an answer as well."""
ID = "id"
_FIRST: ContextVar[int | None] = ContextVar("first_rows", default=None)


@contextmanager
def first_rows(count: int) -> Iterator[None]:
    """While this lasts, read only the first rows of a file, unless they have labels: all rows say which there are."""
    token = _FIRST.set(count)
    try:
        yield
    finally:
        _FIRST.reset(token)


def kind_of(row: Row) -> Kind | None:
    """The kind that the fields of a row make it; None where they make none."""
    return next((kind for kind, fields in KINDS.items() if fields.are_in(row)), None)


def by_role(alone: Place | None, places: Mapping[Role, Place | None]) -> dict[Role | None, Place]:
    """What to read, in the order in which a text keeps its first role; under None what the identities split.

    Raises UsageError (`task-files`) unless there is one place alone, or one to train on and one to confirm with.
    """
    if alone is not None:
        return {None: alone}
    known: dict[Role | None, Place] = {role: place for role, place in places.items() if place is not None}
    if not {"confirm", "train"} <= known.keys():
        raise unclear("give both a train and a confirm file or split; dev may be left out")
    return known


def unclear(hint: str) -> UsageError:
    """The error (`task-files`) for data whose roles nothing says."""
    return UsageError(
        "it is unclear which data are for training and which for evaluation", code="task-files", hint=hint
    )


def tables_of(
    file: Path | None, *, train: Path | None, dev: Path | None, confirm: Path | None
) -> dict[Role | None, Table]:
    """The files of a task as tables by role, what confirms first. Raises as `by_role` and `rows.local` do."""
    if (file is None) == (train is None and dev is None and confirm is None):
        raise unclear(
            "give one `file`, which is split, or `train_file` and `confirm_file`, with or without `dev_file`"
        )
    files = by_role(file, {"confirm": confirm, "dev": dev, "train": train})
    return {role: local(path) for role, path in files.items()}


def checked(table: Table, kind: Kind) -> Iterator[Row]:
    """The rows of `table`, each of them of this kind, with an id of its own or none.

    Raises InputError: `task-column` (a field is missing), `task-kind` (rows of another kind, or of two), `task-id` (not
    a text or a number, or there twice), and what `rows.local` raises.
    """
    ids: dict[str, str] = {}
    shape: frozenset[str] | None = None
    for row in table.rows:
        _require(row, kind, first=shape is None)
        mine = frozenset(filter(row.has, KINDS[kind].one_of))
        if shape not in (None, mine):
            raise InputError(
                f"{row.place}: has {_names(mine)}, and the rows before have {_names(shape or ())}",
                code="task-kind",
                hint="give all rows of a file the same fields",
            )
        shape = mine
        key = row_id(row)
        if key is not None and ids.setdefault(key, row.place) != row.place:
            raise InputError(
                f"{row.place}: the id {key[:80]!r} is also that of {ids[key].rpartition(': ')[2]}",
                code="task-id",
                hint="give every row an id of its own, or leave the ids out",
            )
        yield row


def row_id(row: Row) -> str | None:
    """The id that the row brings; None where it brings none. Raises InputError (`task-id`)."""
    value = row.values.get(ID)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return row.text(ID) if isinstance(value, str) and value.strip() else str(value).strip() or None
    if value is None:
        return None
    raise InputError(
        f"{row.place}: the id is {value!r:.40}, which is neither a text nor a whole number",
        code="task-id",
        hint="write it in quotes, or leave it out",
    )


@dataclass(slots=True)
class Gathering(Generic[Example]):
    """Rows of one kind on their way to examples.

    about: the text that a row's identity is made of; rows that share it are of one role, never of two.
    make: a row and its role -> its examples.
    """

    kind: Kind
    about: Callable[[Row], str]
    make: Callable[[Row, Role], Iterable[Example]]
    ids: dict[str, str] = field(default_factory=dict)
    """Identity of an example -> the id that its row brings."""
    rows: int = 0

    def check(self, tables: Mapping[Role | None, Table]) -> None:
        """Raise what `checked` raises for tables whose rows can be read more than once."""
        for table in tables.values():
            for _ in checked(table, self.kind):
                pass

    def examples(self, tables: Mapping[Role | None, Table], dev: int | None) -> Examples[Example]:
        """The examples of `tables`, `dev` of them held out of train where only train and confirm are there.

        Raises InputError (`task-leak`: a row of one file is in another one, too), and as `checked`, `make` and
        `with_dev` do.
        """
        examples = prepare(self._all(tables))
        if tables.keys() == {"confirm", "train"}:
            examples = with_dev(examples, dev)
        elif dev is not None:
            raise UsageError(
                "`dev` holds examples out of `train_file`, and the roles are given otherwise",
                code="task-files",
                hint="leave `dev` out",
            )
        named = examples.all
        if self.ids:
            named = tuple(replace(item, id=self.ids.get(item.id, item.id)) for item in named)
        return replace(examples, all=named, counts={**examples.counts, "rows": self.rows})

    def _all(self, tables: Mapping[Role | None, Table]) -> Iterator[Example]:
        seen: dict[str, tuple[Role | None, str]] = {}
        for role, table in tables.items():
            for row in islice(checked(table, self.kind), None if self.kind == "labels" else _FIRST.get()):
                self.rows += 1
                about = self.about(row)
                before, place = role, ""
                if len(tables) > 1:
                    before, place = seen.setdefault(sha256_text(about), (role, row.place))
                if before != role:
                    raise InputError(
                        f"{row.place}: the same as {place}: no row can be in the {role} and the {before} file",
                        code="task-leak",
                        hint=f"take it out of one of the two files, best out of {role}",
                    )
                key = row_id(row)
                for number, example in enumerate(self.make(row, role or role_of(content_id(about)))):
                    if key is not None:
                        self.ids.setdefault(example.id, key if number == 0 else f"{key}#{number}")
                    yield example


def _require(row: Row, kind: Kind, *, first: bool) -> None:
    """Raise InputError unless the row has the fields of its kind."""
    fields = KINDS[kind]
    if fields.are_in(row):
        return
    other = kind_of(row)
    if other is not None and first:
        raise InputError(
            f"{row.place}: has {KINDS[other].words}, and this task needs {fields.words}",
            code="task-kind",
            hint=f"`profile: {KINDS[other].profile}` reads such rows",
        )
    if other is not None:
        raise InputError(
            f"{row.place}: has {KINDS[other].words}, and the rows before have {fields.words}",
            code="task-kind",
            hint="put rows of another kind into a file of their own",
        )
    for name in fields.needed:
        row.value(name)  # says which columns there are, and which one is near
    missing = next((name for name in fields.needed if not row.has(name)), None)
    if missing is not None:
        raise row.wrong(missing, "is empty")
    raise InputError(
        f"{row.place}: neither {' nor '.join(f'`{name}`' for name in fields.one_of)}",
        code="task-text",
        hint=f"give each row {fields.words}; take out a row without an answer",
    )


def _names(names: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in sorted(names))


def answer_of(row: Row, column: str = "answer") -> str:
    """The text in `column`, as it is; a number is written out. Raises InputError (`task-column`, `task-text`)."""
    value = row.value(column)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else row.text(column)


def list_of(row: Row, column: str, what: str, least: int) -> Sequence[Any]:
    """The list in `column`: a JSON list, or in CSV the text of one. Raises InputError (`task-text`)."""
    value = row.value(column)
    if isinstance(value, str):
        try:
            value = strict_json.parse(value)
        except ValueError:
            raise row.wrong(column, "is no list in JSON") from None
    if not isinstance(value, list) or len(value) < least:
        raise row.wrong(column, f"is no list of {counted(least, what)} or more")
    return value
