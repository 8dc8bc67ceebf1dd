"""`audit.json` -> a LoraConfig to copy: an explicit rank for every module, and the α that keeps its scale."""

from collections.abc import Iterable, Mapping

from gradience.adapters.config import HEADS_OF_TASK
from gradience.adapters.keys import config_name, ends_with
from gradience.reports.audit import AuditReport, Setting, k_label
from gradience.reports.base.names import display_name
from gradience.reports.base.numbers import count, percent


def lora_config_source(report: AuditReport) -> str | None:
    """Return Python source that makes the suggested LoraConfig; None if nothing may be suggested.

    `target_modules` names every module in full, so that the config applies to exactly the modules of the adapter;
    saved modules, biases, dropout and all other settings are repeated. Names are written as ASCII literals, which they
    cannot break out of.
    """
    plan = report.suggestions
    if plan is None:
        return None
    per = plan.per_layer
    adapter = report.adapter
    named = list(dict.fromkeys(config_name(layer.name) for layer in report.layers))
    stacks = {layer.name for layer in report.layers if layer.kind == "expert"}
    wrapped = adapter.settings.get("target_parameters")
    parameters = tuple(map(str, wrapped)) if isinstance(wrapped, list) else ()
    stacked = [name for name in named if name in stacks or ends_with(name, parameters)]
    plain = [name for name in named if name not in set(stacked)]
    arguments = [f"r={per.r},"]
    arguments += [f"lora_alpha={per.lora_alpha!r},"] if per.lora_alpha is not None else []
    arguments += ["use_rslora=True,"] if adapter.use_rslora else []
    arguments += ["use_dora=True,"] if adapter.use_dora else []
    arguments += [f"task_type={adapter.task_type!a},"] if adapter.task_type else []
    arguments += [f"{name}={value!a}," for name, value in _settings(report).items()]
    arguments += _list("target_modules", plain)
    arguments += _list("target_parameters", stacked) if stacked else []
    arguments += _dict("rank_pattern", per.rank_pattern)
    if per.lora_alpha is not None:
        arguments += _dict("alpha_pattern", per.alpha_pattern)
        alpha = "α is scaled with the rank, so the scale of every module does not change."
    else:
        alpha = "α of the adapter is unknown: set lora_alpha and alpha_pattern yourself."
    now, then = count(report.total_lora_params), count(per.params)
    saving = f"{now} LoRA parameters become {then} ({percent(per.reduction)} saved)"
    comments = [
        f"Made from {display_name(adapter.path)}, sha256 {adapter.sha256[:12]}.",
        f"Each rank is the module's {k_label(plan.tau)}, rounded up to the allowed ranks: {saving}.",
        "The ranks come from weight energy. An adapter trained at them is a different one: evaluate it on the task.",
        alpha,
    ]
    if adapter.init not in ("true", "gaussian"):
        comments.append(
            f"The adapter was initialized with {display_name(adapter.init)}: set init_lora_weights yourself."
        )
    if stacked:
        comments.append("PEFT 0.21 warns that it ignored the keys of target_parameters, but applies them.")
    lines = [*(f"# {comment}" for comment in comments), "from peft import LoraConfig", ""]
    lines += ["config = LoraConfig(", *(f"    {argument}" for argument in arguments), ")"]
    return "\n".join(lines) + "\n"


def _settings(report: AuditReport) -> dict[str, Setting]:
    """Return the settings without targets, which are named in full, and heads that PEFT saves for the task."""
    heads = HEADS_OF_TASK.get(report.adapter.task_type or "", ())
    settings = dict(report.adapter.settings)
    settings.pop("target_parameters", None)
    saved = settings.pop("modules_to_save", None)
    others = [name for name in saved if name not in heads] if isinstance(saved, list) else []
    return settings | ({"modules_to_save": [str(name) for name in others]} if others else {})


def _list(name: str, items: Iterable[str]) -> list[str]:
    return [f"{name}=[", *(f"    {item!a}," for item in items), "],"]


def _dict(name: str, items: Mapping[str, int | float]) -> list[str]:
    return [f"{name}={{", *(f"    {key!a}: {value!r}," for key, value in items.items()), "},"]
