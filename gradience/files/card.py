"""The model card of an adapter: a block between two markers in its README.md, and the YAML above it that hubs read.

The block comes after the YAML and before the text. It first says which text describes the original. The YAML is read
and written by huggingface_hub's ModelCard; without huggingface_hub it does not change.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from gradience.errors import InputError
from gradience.files.whole import write_whole
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.settings import Flag, Internal, StrPath, settings_model

CARD = "README.md"
BEGIN, END = b"<!-- gradience:card -->\n", b"<!-- /gradience:card -->\n"
"""No name from an untrusted file can end a block: our Markdown writes `<` as a reference, and code has none."""
OURS = "evaluated_with"
"""Key in `metric_args` that marks a result of ours."""


@settings_model()
class CardSettings:
    """Card."""

    adapter: Annotated[StrPath, Flag("ADAPTER")]
    """Folder of a LoRA adapter."""
    _: KW_ONLY
    evaluation: Annotated[StrPath | None, Flag("FILE")] = None
    """An evaluation.json or shrink.json (default: this adapter's, in its folder or above)."""
    dry_run: bool = False
    """Print the block; write nothing."""
    note: Annotated[Callable[[str], None] | None, Internal] = None
    """A callback for a remark about what an earlier block said."""


class FrontMatter(NamedTuple):
    """Facts for the YAML of a card, in huggingface_hub's words.

    fields: fields of ModelCardData, kept if the card has others.
    results: keywords of EvalResult. They replace earlier results of ours.
    derived: the weights are not those that the rest of the card describes, so its other results are dropped.
    """

    fields: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...] = ()
    derived: bool = False


class Card(NamedTuple):
    """The parts of a card that Gradience writes. front: None keeps the YAML."""

    block: str
    front: FrontMatter | None = None


CardOf = Callable[..., Card]
"""`card_of` of gradience.card: an adapter's folder, the evidence about it, the adapter if it is open -> its card."""
_FRONT_MATTER = re.compile(rb"(?:\xef\xbb\xbf)?---[ \t]*\r?\n.*?\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_BLOCK = re.compile(re.escape(BEGIN) + rb".*?" + re.escape(END), re.DOTALL)


def with_block(card: bytes, block: str) -> bytes:
    """Return the card with `block` (Markdown) between the markers; an existing block is replaced.

    >>> with_block(b"---\\nlicense: mit\\n---\\n# Mine\\n", "Rank 4.")
    b'---\\nlicense: mit\\n---\\n<!-- gradience:card -->\\nRank 4.\\n<!-- /gradience:card -->\\n# Mine\\n'
    """
    text = BEGIN + block.strip("\n").encode() + b"\n" + END
    match = _BLOCK.search(card)
    if match is not None:
        start, end = match.span()
    else:
        front = _FRONT_MATTER.match(card)
        start = end = front.end() if front else 0
        if start and not card[:start].endswith(b"\n"):
            text = b"\n" + text
    return card[:start] + text + card[end:]


def block_in(card: bytes) -> str:
    """Return the Gradience block in a card; empty if there is none."""
    match = _BLOCK.search(card)
    return "" if match is None else match[0].decode("utf-8", "replace")


def without_block(card: bytes) -> bytes:
    """Return what is not ours: the card without the first block."""
    return _BLOCK.sub(b"", card, count=1)


def text_of(card: bytes) -> bytes:
    """Return the text of a card that is not ours, without the YAML."""
    text = without_block(card)
    front = _FRONT_MATTER.match(text)
    return text[front.end() :] if front else text


def with_front_matter(card: bytes, front: FrontMatter, name: str) -> bytes:
    """Return the card with the facts in its YAML, through huggingface_hub. name: the model's name beside results.

    License and every other field stay; the layout of the YAML becomes huggingface_hub's. Raises InputError
    (bad-front-matter) if the YAML cannot be read.
    """
    from huggingface_hub import EvalResult, ModelCard
    from yaml import YAMLError

    try:
        text = card.decode("utf-8-sig")
        parsed = ModelCard(text if _FRONT_MATTER.match(card) else f"---\n{{}}\n---\n{text}")
        data: Any = parsed.data
        data.tags = list(dict.fromkeys([*(data.tags or []), *front.fields.get("tags", ())]))
        for field, value in front.fields.items():
            if data.get(field) is None:
                data[field] = value
        kept = [] if front.derived else [row for row in data.eval_results or [] if not _is_ours(row)]
        data.eval_results = [*kept, *(EvalResult(**row) for row in front.results)] or None
        data.model_name = (data.model_name or name) if data.eval_results else None
        return str(parsed).encode()
    except (YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{CARD}: its front matter is not valid YAML: {str(error).splitlines()[0][:200]}",
            code="bad-front-matter",
            hint="correct the lines between the two `---`",
        ) from error


def _is_ours(result: Any) -> bool:
    return isinstance(result.metric_args, dict) and OURS in result.metric_args


def read_card(folder: Path) -> bytes:
    """Return the card in `folder`, empty if there is none. Raises InputError as `read_file` does."""
    path = folder / CARD
    return read_file(path, MAX_DATA_BYTES) if path.exists() else b""


def write_card(folder: Path, card: Card, *, strict: bool = False) -> bool:
    """Put `card` into README.md in `folder`, creating it if necessary. Return True if the file changed.

    strict: raise InputError (bad-front-matter) for YAML that cannot be read, instead of keeping it. Raises
    InputError as `read_file` does, OutputError if the file cannot be written.
    """
    before = read_card(folder)
    after = with_block(before, card.block)
    if card.front is not None and find_spec("huggingface_hub") is not None:
        try:
            after = with_front_matter(after, card.front, folder.name)
        except InputError:
            if strict:
                raise
    if after == before:
        return False
    write_whole(folder / CARD, [after])
    return True
