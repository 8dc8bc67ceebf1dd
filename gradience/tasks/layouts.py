"""Columns of well-known data sets, read as the kinds of rows that tasks take.

The first row decides the layout of a file. A layout adds our columns (`prompt`, `answer`, `messages`, `choices`,
`text`, `label`) to each row and keeps the file's own, so that a task can still be given columns by name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from gradience.errors import InputError, did_you_mean
from gradience.tasks.row import Row

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
        return lambda row: {"messages": [*_messages(row, "prompt"), *_messages(row, "completion")]}
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


# ---------------------------------------------------------------- the layouts


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


def _messages(row: Row, column: str) -> list[Any]:
    """Messages with `role` and `content`; ShareGPT has `from` and `value`, and names of its own."""
    messages = []
    for message in row.items(column, "message", 1):
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
        before = _messages(row, "prompt") if isinstance(prompt, list) else []
        return {"messages": [*before, *_messages(row, "chosen")]}
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
