"""`audit.json` -> a LoraConfig to copy: an explicit rank for every module, and the α that keeps its scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gradience.artifacts.audit import AuditReport
from gradience.report.audit_facts import k_label
from gradience.report.names import display_name
from gradience.report.numbers import count, percent


def lora_config_source(report: AuditReport) -> str | None:
    """Python source that makes the suggested LoraConfig; None where no suggestion may be made.

    `target_modules` names every module in full, so that the config applies to exactly the modules of the
    adapter. Names are written as ASCII literals: nothing in them can leave its string.
    """
    plan = report.suggestions
    if plan is None:
        return None
    per = plan.per_layer
    adapter = report.adapter
    plain = list(dict.fromkeys(layer.name for layer in report.layers if layer.kind != "expert"))
    stacked = list(dict.fromkeys(layer.name for layer in report.layers if layer.kind == "expert"))
    arguments = [f"r={per.r},"]
    arguments += [f"lora_alpha={per.lora_alpha!r},"] if per.lora_alpha is not None else []
    arguments += ["use_rslora=True,"] if adapter.use_rslora else []
    arguments += ["use_dora=True,"] if adapter.use_dora else []
    arguments += [f"task_type={_literal(adapter.task_type)},"] if adapter.task_type else []
    arguments += _list("target_modules", plain)
    arguments += _list("target_parameters", stacked) if stacked else []
    arguments += _dict("rank_pattern", per.rank_pattern)
    if per.lora_alpha is not None:
        arguments += _dict("alpha_pattern", per.alpha_pattern)
        alpha = "α goes with the rank, so that the scale of every module stays what it was."
    else:
        alpha = "The adapter does not tell its α: set lora_alpha and alpha_pattern yourself."
    comments = [
        f"Made from {display_name(adapter.path)}, sha256 {adapter.sha256[:12]}.",
        f"Each rank is the module's {k_label(plan.tau)}, rounded up to the allowed ranks: {_saving(report)}.",
        "It rests on the energy of the weights: a hypothesis, to be evaluated on the task.",
        alpha,
    ]
    if stacked:
        comments.append(
            "PEFT 0.21 warns that it ignored the keys of target_parameters, and applies them all the same."
        )
    lines = [*(f"# {comment}" for comment in comments), "from peft import LoraConfig", ""]
    lines += ["config = LoraConfig(", *(f"    {argument}" for argument in arguments), ")"]
    return "\n".join(lines) + "\n"


def _saving(report: AuditReport) -> str:
    per = report.suggestions.per_layer if report.suggestions else None
    if per is None:
        return ""
    now, then = count(report.total_lora_params), count(per.params)
    return f"{now} LoRA parameters become {then} ({percent(per.reduction)} saved)"


def _list(name: str, items: Iterable[str]) -> list[str]:
    return [f"{name}=[", *(f"    {_literal(item)}," for item in items), "],"]


def _dict(name: str, items: Mapping[str, int | float]) -> list[str]:
    return [f"{name}={{", *(f"    {_literal(key)}: {value!r}," for key, value in items.items()), "},"]


def _literal(text: str) -> str:
    """An ASCII string literal of Python, in double quotes where that needs no further escape."""
    literal = ascii(text)
    return f'"{literal[1:-1]}"' if literal[0] == "'" and '"' not in literal else literal
