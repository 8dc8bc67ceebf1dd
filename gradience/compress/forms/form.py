"""What a format beside PEFT's asks of a writer, and the refusals that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.dtypes import Words
from gradience.adapters.formats import words_of
from gradience.adapters.initialisations import initialisation_of
from gradience.adapters.inventory import BASE_REASON, GHOST_REASON, SkippedTensor
from gradience.adapters.keys import ends_with, parse_key
from gradience.adapters.kohya import ALPHA_REASON
from gradience.compress.encodings import Encoded, Target, encode_modules, rule_of
from gradience.errors import InputError
from gradience.reports.compression import Encoding
from gradience.runtimes.architecture import model_config_of

Side = Literal["A", "B"]
_LEFT_OUT = (GHOST_REASON, BASE_REASON)
"""What no update is: copies."""

_OF_PEFT = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "alora_invocation_tokens",
    "layer_replication",
)
"""Fields of PEFT's config with which s·B·A is not the whole update, or belongs to further modules."""


class Settings(NamedTuple):
    """What a folder says beside its factors.

    config: adapter_config.json, where the format has one.   old: what the source said, for the report; new: what is
    said now, wherever the format has it.   metadata: of the header of the weights.
    """

    config: Mapping[str, Any] | None
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    metadata: Mapping[str, str]


class Form(NamedTuple):
    """How an adapter is written in one format.

    name: as `Adapter.format` has it.   words: what messages call it.   weights: name of the file.
    dtypes: storage types that its library reads.
    module: (adapter, one of its modules) -> the name of the module there. Raises InputError (not-in-format).
    factor: (name of the module there, side) -> the name of the tensor.
    turn: (words in PEFT's order of axes, side, pair) -> a view in the format's order.
    settings: (adapter, modules as they are written) -> the rest. Raises InputError (not-in-format).
    one_rank: whether all modules have one rank and one scale.
    """

    name: str
    words: str
    weights: str
    dtypes: frozenset[str]
    module: Callable[[Adapter, str], str]
    factor: Callable[[str, Side], str]
    turn: Callable[[Words, Side, LoraPair], Words]
    settings: Callable[[Adapter, Sequence[Target]], Settings]
    one_rank: bool = False


def encode_for(form: Form | None, targets: Sequence[Target], encoding: Encoding | None) -> Encoded:
    """Write `targets` by the rule `encoding`, or by the one that fits them and the format; form None: PEFT's."""
    encoded = encode_modules(targets, encoding)
    if form is None or not form.one_rank or encoding is not None or encoded.encoding != "patterns":
        return encoded
    reason = f"{encoded.reason}, and {form.words} has one rank and one scale for all of them"
    return rule_of("padded").encode(targets, reason)


def not_held(opened: Adapter, form: str, what: str, hint: str) -> InputError:
    """The error for what the format `form` cannot hold of an adapter."""
    source = words_of(opened.format)
    return InputError(
        f"{opened.location.path}: {source if source == form else f'{source} as {form}'}: {what}",
        code="not-in-format",
        hint=hint,
    )


def refuse_beside(opened: Adapter, form: str) -> tuple[SkippedTensor, ...]:
    """Return the tensors that are copies, or of another adapter in the file: they are left out.

    Raises InputError (not-in-format) for a tensor beside the factors that belongs to this adapter, for which the format
    has no place, and what `refuse_meaning` raises.
    """
    left_out = []
    for note in (*opened.unaudited, *opened.other):
        if note.reason == ALPHA_REASON:
            continue  # in the settings of what is written
        if note.reason in _LEFT_OUT or parse_key(note.tensor).adapter not in (None, opened.adapter_name):
            left_out.append(note)
            continue
        raise no_place(opened, form, note)
    refuse_meaning(opened, form)
    return tuple(left_out)


def refuse_meaning(opened: Adapter, form: str) -> None:
    """Raise InputError (not-in-format) for an update that is not s·B·A of modules on the base as it is.

    Only PEFT's config says how the base is changed, or that a factor belongs to a parameter.
    """
    config = opened.config
    if config is None:
        return
    start = initialisation_of(config.init)
    if start is None or not start.keeps_base:
        rank = 2 * max((pair.rank for pair in opened.pairs), default=1)
        raise not_held(
            opened,
            form,
            f"init_lora_weights is {config.init[:60]!r}: "
            + ("PEFT changes the base weights, too" if start else "what PEFT does to the base is unknown"),
            f"write the difference to the adapter before training, as plain LoRA: gradience compress "
            f"{opened.location.path} --initial-adapter INITIAL --rank {rank} --output NEW; then convert NEW",
        )
    field = next((name for name in _OF_PEFT if config.fields.get(name)), None)
    tied = any(pair.kind == "embedding" or pair.module.endswith("lm_head") for pair in opened.pairs)
    if tied and config.fields.get("ensure_weight_tying"):
        field = "ensure_weight_tying"
    parameter = next(
        (pair.module for pair in opened.pairs if ends_with(pair.module, config.target_parameters)), None
    )
    if field or parameter:
        what = (
            f"{field} in its config has no equivalent there"
            if field
            else f"{parameter} is a parameter, not a module"
        )
        raise not_held(opened, form, what, "only PEFT's format holds it")


def refuse_tied_embedding(opened: Adapter, form: str) -> None:
    """Raise InputError (not-in-format) between PEFT and mlx-lm for an embedding that is the head as well.

    mlx-lm adds the update of the embedding to the head, too (0.32.2, tuner/lora.py, `LoRAEmbedding.as_linear`), PEFT
    does not. A base whose config.json is not on this disk is not checked.
    """
    embedding = next((pair.module for pair in opened.pairs if pair.kind == "embedding"), None)
    if embedding is None or opened.config is None:
        return
    base = model_config_of(opened.config, opened.location.root) or {}
    if base.get("tie_word_embeddings") is True:
        raise not_held(
            opened,
            form,
            f"{embedding} is also the head of this base model (tie_word_embeddings): mlx-lm updates both, PEFT only "
            "the embedding",
            "train without LoRA on the embedding, or load the adapter with the library that trained it",
        )


def no_place(opened: Adapter, form: str, note: SkippedTensor) -> InputError:
    """The error for a tensor beside the factors, where the format `form` has factors alone."""
    return not_held(
        opened,
        form,
        f"it has no place for {note.tensor[:120]} ({note.reason})",
        "leave it out, where the adapter may do without: gradience compress ADAPTER --rank R --strip NAME "
        "--output NEW; PEFT's format holds it",
    )


def refuse_types(opened: Adapter, form: Form, types: Mapping[str, str]) -> None:
    """Raise InputError (not-in-format) for a storage type that the format's library does not read.

    types: module -> storage type of one of its factors as written.
    """
    for module, dtype in types.items():
        if dtype not in form.dtypes:
            raise not_held(
                opened,
                form.words,
                f"{module} is stored as {dtype}, and {form.words} has {', '.join(sorted(form.dtypes))}",
                "gradience compress ADAPTER --rank R --dtype F32 --output NEW stores it so",
            )
