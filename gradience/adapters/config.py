"""`adapter_config.json` of PEFT, read strictly: a value of the wrong type is an error that names the field.

Unknown fields are normal (other versions of PEFT) and ignored. Nothing in the file is imported, opened or run.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from gradience.adapters.files import read_object
from gradience.adapters.foreign import MLX_HINT, refuse_method
from gradience.adapters.patterns import Budget, PatternTable, SavedNames, expressions_of, try_expressions
from gradience.arguments import is_integer, is_number
from gradience.errors import InputError
from gradience.ranks import scale_of


class Initialization(NamedTuple):
    """One value of `init_lora_weights`.

    zero: B·A = 0 before the first step.   keeps_base: the base's weights do not change.
    """

    zero: bool
    keeps_base: bool


_NOTHING = Initialization(zero=True, keeps_base=True)
_NOISE = Initialization(zero=False, keeps_base=True)
_OUT_OF_THE_BASE = Initialization(zero=False, keeps_base=False)

INITIALIZATIONS: Mapping[str, Initialization] = {
    "true": _NOTHING,
    "false": _NOISE,
    "gaussian": _NOTHING,
    "eva": _NOTHING,
    "olora": _OUT_OF_THE_BASE,
    "pissa": _OUT_OF_THE_BASE,
    "corda": _OUT_OF_THE_BASE,
    "loftq": _OUT_OF_THE_BASE,
    "orthogonal": _NOISE,  # the inner sides are orthogonal: 1e-7 of ‖B‖·‖A‖ in float32, 1e-3 in bfloat16
    "lora_ga": _OUT_OF_THE_BASE,
    "mica": _NOTHING,  # A is 0, and B is never trained
}
"""All that PEFT knows, in lower case; `pissa` with a number of iterations behind it as well."""


AS_PLAIN_LORA = (
    "save it as plain LoRA with PEFT: model.save_pretrained(folder, path_initial_model_for_weight_conversion=initial), "
    "with the folder of the adapter as it was before training"
)
"""Hint for an adapter whose initialization changed the base weights."""


def initialization_of(value: object) -> Initialization | None:
    """Return the effect of a config's `init_lora_weights`; None for a value that PEFT does not know."""
    name = str(value).lower()
    return INITIALIZATIONS.get("pissa" if name.startswith("pissa_niter_") else name)


MAX_RANK = 65536
MAX_NAMES = 200_000
"""Largest number of modules in one field; equal to the number of tensors that are read."""
MIN_ALPHA, MAX_ALPHA = 1e-30, 1e12
"""Absolute value, unless it is 0; published configs had up to 1e5. Products of larger values would leave float64."""
DEFAULT_RANK = DEFAULT_ALPHA = 8
"""PEFT's own, for configs that leave them out."""
HEADS_OF_TASK: Mapping[str, tuple[str, ...]] = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Task -> modules that PEFT adds to modules_to_save by itself (0.21, peft_model.py); a model has one of them."""


@dataclass(frozen=True)
class PeftConfig:
    """The parts of a LoRA config that the audit needs, with PEFT's names and defaults."""

    path: Path
    fields: Mapping[str, Any]
    """The whole file as it was."""
    r: int | None = None
    lora_alpha: float | None = None
    rank_pattern: PatternTable = field(default_factory=lambda: PatternTable({}))
    alpha_pattern: PatternTable = field(default_factory=lambda: PatternTable({}))
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    init: str = "true"
    target_modules: tuple[str, ...] | str | None = None
    target_parameters: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    base_model: str | None = None
    task_type: str | None = None
    peft_type: str | None = None
    peft_version: str | None = None

    @cached_property
    def target_names(self) -> frozenset[str]:
        """Names in `target_modules` if it is a list. A name applies to every module whose path ends with
        it.
        """
        return frozenset(self.target_modules if isinstance(self.target_modules, tuple) else ())

    @cached_property
    def parameters_by_owner(self) -> Mapping[str, list[str]]:
        """`target_parameters` as owner -> parameters; the owner is empty for a target without a dot."""
        owners: dict[str, list[str]] = {}
        for target in self.target_parameters:
            owner, _, parameter = target.rpartition(".")
            owners.setdefault(owner, []).append(parameter)
        return owners

    @cached_property
    def heads_of_task(self) -> tuple[str, ...]:
        """Modules that PEFT saves whole because of the task type."""
        return HEADS_OF_TASK.get(self.task_type or "", ())

    @cached_property
    def _saved_names(self) -> SavedNames:
        return SavedNames((*self.modules_to_save, *self.heads_of_task))

    def saved_whole(self, module: str) -> tuple[str, str] | None:
        """The module that PEFT saves whole, `module` or one around it, and the entry of modules_to_save, or the head
        of the task, that says so (see `SavedNames`)."""
        return self._saved_names.find(module)

    def rank_of(self, name: str) -> int | None:
        """Return the rank that the config gives the module `name` (PEFT's rule: the first matching pattern
        applies).

        None if it is unknown: r is missing, or a pattern that may match was not evaluated.
        """
        value, certain = self.rank_pattern.lookup(name)
        if value is None:
            return self.r if certain else None
        return int(value)

    def alpha_of(self, name: str) -> float | None:
        """Return the α that the config gives the module `name`; None if it is unknown, as in `rank_of`."""
        value, certain = self.alpha_pattern.lookup(name)
        if value is None:
            return self.lora_alpha if certain else None
        return float(value)

    def scale(self, alpha: float | None, rank: int) -> float | None:
        """s = α/r, or α/√r with rsLoRA (PEFT 0.21, tuners/lora/layer.py, `update_layer`)."""
        return None if alpha is None else scale_of(alpha, rank, use_rslora=self.use_rslora)


def read_config(path: Path, *, root: Path | None = None) -> PeftConfig:
    """Read an adapter_config.json.

    Raises InputError: not-found, lfs-pointer, html-page, bad-json, bad-config, mlx-adapter, other-method,
    not-peft-config.
    """
    fields = read_object(path, root=root)
    if "fine_tune_type" in fields or "lora_parameters" in fields:
        raise InputError(
            f"{path}: the config of an MLX-LM adapter (fine_tune_type, lora_parameters), beside other weights",
            code="mlx-adapter",
            hint=MLX_HINT,
        )
    return config_of(path, fields)


def config_of(path: Path, fields: Mapping[str, Any]) -> PeftConfig:
    """The config that these fields of `path` describe.

    Raises InputError: bad-config, other-method, not-peft-config.
    """
    _check(path, fields, {"peft_type": _A_TEXT})
    peft_type = fields.get("peft_type")
    if peft_type is not None and peft_type.upper() != "LORA":
        raise refuse_method(path, f"uses the PEFT method {peft_type[:40]!r}")
    if peft_type is None and not {"r", "lora_alpha"} & fields.keys():
        raise InputError(
            f"{path}: not a PEFT adapter config: neither peft_type nor r and lora_alpha "
            f"(it starts with {_json(fields)})",
            code="not-peft-config",
            hint="put the adapter's own adapter_config.json here, or remove this file to audit only the weights",
        )
    _check(path, fields, _READ)
    for name, (fits, wanted) in (("rank_pattern", _A_RANK), ("alpha_pattern", _A_NUMBER)):
        for key, number in (fields.get(name) or {}).items():
            if not fits(number):
                raise _bad(path, f"{name}[{_json(key)}] is {_json(number)}, not {wanted}")

    def names(field: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(fields.get(field) or ()))

    budget = Budget()
    targets, init = fields.get("target_modules"), fields.get("init_lora_weights", True)
    if not isinstance(init, str):  # null as PEFT reads it: neither factor is set to 0
        init = "true" if init else "false"
    return PeftConfig(
        path=path,
        fields=fields,
        r=int(fields.get("r", DEFAULT_RANK)),
        lora_alpha=float(fields.get("lora_alpha", DEFAULT_ALPHA)),
        rank_pattern=PatternTable(fields.get("rank_pattern") or {}, budget),
        alpha_pattern=PatternTable(fields.get("alpha_pattern") or {}, budget),
        use_rslora=bool(fields.get("use_rslora")),
        use_dora=bool(fields.get("use_dora")),
        fan_in_fan_out=bool(fields.get("fan_in_fan_out")),
        bias=fields.get("bias") or "none",
        init=init,
        target_modules=targets if targets is None or isinstance(targets, str) else names("target_modules"),
        target_parameters=names("target_parameters"),
        modules_to_save=names("modules_to_save"),
        base_model=fields.get("base_model_name_or_path"),
        task_type=fields.get("task_type"),
        peft_type=peft_type,
        peft_version=fields.get("peft_version"),
    )


def check_for_peft(config: PeftConfig, names: Sequence[str]) -> None:
    """Raise InputError (`bad-config`) for a value that PEFT would fail on, or that would keep it busy for ever.

    names: of the base's modules and parameters, with which PEFT compares the expressions.
    """
    _check(config.path, config.fields, _OF_PEFT)
    if isinstance(config.target_modules, tuple) and not all(config.target_modules):
        raise _bad(config.path, "target_modules contains an empty name")
    tried = try_expressions(expressions_of(config.fields), names)
    if tried is not None:
        field, reason = tried
        raise InputError(
            f"{config.path}: {field} is {_json(config.fields[field])}, and matching it against the module"
            f" names fails: {reason}",
            code="bad-config",
            hint=f"list the module names in {field}",
        )


def without_imports(config: Any) -> Any:
    """Take from PEFT's config what chooses a module to import, or a repository to ask, and return it."""
    config.megatron_config = config.auto_mapping = config.base_model_name_or_path = config.revision = None
    return config


def is_rank(value: Any) -> bool:
    """Return whether a value of a config can be a rank."""
    return is_integer(value) and 1 <= value <= MAX_RANK


def is_alpha(value: Any) -> bool:
    """Return whether a value of a config can be an α or a scale: 0, or of a size that stays within float64."""
    return is_number(value) and (not value or MIN_ALPHA <= abs(value) <= MAX_ALPHA)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _names(value: Any) -> bool:
    return _texts(value) and len(value) <= MAX_NAMES


def _map(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= MAX_NAMES


def _indices(value: Any) -> bool:
    return isinstance(value, list) and all(is_integer(item) and 0 <= item < 2**31 for item in value)


Values = tuple[Callable[[Any], bool], str]
"""Test for the accepted values of a field, and a description of them."""
_A_TEXT: Values = (lambda value: isinstance(value, str), "text")
_A_FLAG: Values = (lambda value: isinstance(value, bool), "true or false")
_A_RANK: Values = (is_rank, f"an integer from 1 to {MAX_RANK}")
_A_NUMBER: Values = (is_alpha, f"0, or a number between {MIN_ALPHA:g} and {MAX_ALPHA:g}")
_NAMES: Values = (_names, f"a list of names, at most {MAX_NAMES:,}")
_PATTERN: Values = (_map, f"a map from module names to numbers, at most {MAX_NAMES:,}")
_NAMES_OR_ONE: Values = (lambda value: isinstance(value, str) or _texts(value), "a list of names")
_READ: Mapping[str, Values] = {
    "r": _A_RANK,
    "lora_alpha": _A_NUMBER,
    "rank_pattern": _PATTERN,
    "alpha_pattern": _PATTERN,
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out"), _A_FLAG),
    "bias": _A_TEXT,
    "init_lora_weights": (
        lambda value: isinstance(value, bool | str),
        "true, false or the name of an initialization",
    ),
    "target_modules": (lambda value: isinstance(value, str) or _names(value), _NAMES[1]),
    **dict.fromkeys(("target_parameters", "modules_to_save"), _NAMES),
    **dict.fromkeys(("base_model_name_or_path", "task_type", "peft_version"), _A_TEXT),
}
"""Fields that the audit reads."""
_OF_PEFT: Mapping[str, Values] = {
    "exclude_modules": _NAMES_OR_ONE,
    "layers_pattern": _NAMES_OR_ONE,
    "layer_replication": (
        lambda value: isinstance(value, list) and all(map(_indices, value)),
        "a list of ranges of layers",
    ),
    "layers_to_transform": (lambda value: is_integer(value) or _indices(value), "a list of layers"),
    "lora_dropout": (lambda value: is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "trainable_token_indices": (
        lambda value: _indices(value) or (isinstance(value, dict) and all(map(_indices, value.values()))),
        "a list of tokens, or one for each module",
    ),
    "alora_invocation_tokens": (_indices, "a list of tokens"),
    "bias": (lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    **dict.fromkeys(("lora_bias", "use_qalora", "ensure_weight_tying"), _A_FLAG),
}
"""Fields that only PEFT reads -> values that it understands (0.21)."""


def is_understood(name: str, value: Any) -> bool:
    """Return True if PEFT 0.21 understands this value of a field."""
    fits, _ = {**_READ, **_OF_PEFT}[name]
    return fits(value)


def _check(path: Path, fields: Mapping[str, Any], known: Mapping[str, Values]) -> None:
    """Raise InputError (bad-config) for a value that is not understood; null is a field that is not there."""
    for name, (fits, wanted) in known.items():
        value = fields.get(name)
        given = name in fields if name in ("r", "lora_alpha") else value is not None
        if given and not fits(value):
            raise _bad(path, f"{name} is {_json(value)}, not {wanted}")


def _bad(path: Path, problem: str) -> InputError:
    return InputError(f"{path}: {problem}", code="bad-config", hint="save the adapter again with PEFT")


def _json(value: Any) -> str:
    """Return the beginning of a value as written in the file."""
    return json.dumps(value, ensure_ascii=False)[:80]
