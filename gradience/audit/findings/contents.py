"""The config against the tensors: ranks, targets, patterns, what is missing and what is there twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from gradience.adapters.adapter import SCALE_HINT
from gradience.adapters.experts import guessed_orders
from gradience.adapters.keys import parse_key, path_ends
from gradience.audit.findings.facts import Facts, many
from gradience.reports.base.finding import Finding
from gradience.words import counted, listed, noun


def no_config(facts: Facts) -> Iterator[Finding]:
    if facts.config is None:
        yield Finding(
            code="no-config",
            severity="warning",
            message="no adapter_config.json: α (and so every norm), initialisation and variant are unknown",
            hint="put the adapter_config.json beside the weights",
        )
    elif facts.no_scale:
        yield Finding(
            code="unclear-scale",
            severity="warning",
            message=f"{facts.no_scale}: there are no norms, and nothing is converted or compressed",
            hint=SCALE_HINT,
        )
    elif any(layer.scale == 0 for layer in facts.layers):
        yield Finding(
            code="zero-scale",
            severity="error",
            message="α is 0 for some modules: their update is multiplied by 0 and does nothing",
            hint="set lora_alpha",
        )


def declared_ranks(facts: Facts) -> Iterator[Finding]:
    wrong = [
        layer for layer in facts.layers if layer.declared_r not in (None, layer.r) and layer.expert is None
    ]
    if wrong:
        first = wrong[0]
        yield from many(
            "rank-disagrees",
            "error",
            [layer.name for layer in wrong],
            f"with another rank than the config says (tensors {first.r}, config {first.declared_r})",
            "correct r or rank_pattern: PEFT will not load this; the audit takes the tensors' ranks (also in s = α/r)",
        )


def targets(facts: Facts) -> Iterator[Finding]:
    config = facts.config
    if config is None:
        return
    modules = {layer.name for layer in facts.layers} | {
        parse_key(note.tensor).module for note in facts.unaudited
    }
    targets = config.target_modules if isinstance(config.target_modules, tuple) else ()
    ends = {end for module in modules for end in path_ends(module)}
    missing = [target for target in (*targets, *config.target_parameters) if target not in ends]
    if missing and targets != ("all-linear",):
        yield Finding(
            code="target-unmatched",
            severity="warning",
            message=f"{noun(len(missing), 'target')} without a matching module in the file: {listed(missing, 6)}",
            hint="check target_modules for a typo: what it does not match was never trained",
        )
    guessed = guessed_orders(config)
    if guessed:
        yield Finding(
            code="parameter-order",
            severity="warning",
            message=(
                f"several parameters of one module are targeted ({listed(guessed)}); the file does not say which "
                "tensor belongs to which: named in alphabetical order"
            ),
            hint="compare the shapes: rank_pattern and alpha_pattern may apply to the wrong parameter",
        )
    for label, table in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for key, reason in table.skipped.items():
            yield Finding(
                code="pattern-skipped",
                severity="error",
                message=f"{label} key {key[:80]!r} was not applied ({reason}): rank or scale may be wrong",
                hint="write the key as the module's name, with dots escaped",
            )
        if table.unmatched:
            keys = noun(len(table.unmatched), "key")
            yield Finding(
                code="pattern-unmatched",
                severity="warning",
                message=f"{label} {keys} without a matching module: {listed([key[:80] for key in table.unmatched])}",
                hint="PEFT ignores them; a key must match the end of a module's name",
            )


def saved_parts(facts: Facts) -> Iterator[Finding]:
    config = facts.config
    if config is None:
        return
    tensors = [note.tensor for note in facts.other]
    if config.bias != "none" and not any(tensor.endswith("bias") for tensor in tensors):
        yield Finding(
            code="bias-missing",
            severity="warning",
            message=f"the config says bias={config.bias!r}, the file contains none: trained biases may be missing",
            hint="save it again with PEFT's save_pretrained",
        )
    saved = (config.saved_whole(parse_key(tensor).module) for tensor in tensors)
    held = {match[1] for match in saved if match}
    absent = [name for name in config.modules_to_save if name not in held]
    if held.intersection(config.heads_of_task):
        absent = [name for name in absent if name not in config.heads_of_task]
    if absent:
        yield Finding(
            code="saved-module-missing",
            severity="warning",
            message=f"modules_to_save not in the file: {listed(absent)}",
            hint="save it again with PEFT's save_pretrained: without their weights these load untrained",
        )


def names(facts: Facts) -> Iterator[Finding]:
    if facts.misnamed:
        yield Finding(
            code="not-applied",
            severity="error",
            message=(
                f"{counted(len(facts.misnamed), 'tensor')} with names that PEFT does not write: "
                f"{listed(facts.misnamed, 1)}. PeftModel.from_pretrained (0.21) refuses such an adapter, or ignores "
                "the tensors and answers as the base does"
            ),
            hint="`gradience compress` writes PEFT's own names, at the same ranks too (--rank R --encoding patterns)",
        )


def saved_and_adapted(facts: Facts) -> Iterator[Finding]:
    saved = [layer.name for layer in facts.layers if facts.config and facts.config.saved_whole(layer.name)]
    yield from many(
        "saved-and-adapted",
        "warning",
        list(dict.fromkeys(saved)),
        "with LoRA factors and also in modules_to_save (which matches the end of a name)",
        "take them out of modules_to_save or of target_modules: PEFT 0.21 does not load both",
    )


def ghosts(facts: Facts) -> Iterator[Finding]:
    if facts.ghosts:
        yield Finding(
            code="ghost-copies",
            severity="warning",
            message=(
                f"{counted(len(facts.ghosts), 'tensor')} repeat a module under original_module or modules_to_save: "
                f"{listed(facts.ghosts, 2)}"
            ),
            hint="`gradience convert` leaves them out; they are counted once here",
        )


def unaudited(facts: Facts) -> Iterator[Finding]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for note in facts.unaudited:
        by_reason[note.reason].append(note.tensor)
    for reason, tensors in by_reason.items():
        yield Finding(
            code="unaudited",
            severity="error",
            module=tensors[0],
            message=f"{counted(len(tensors), 'tensor')} not audited: {reason}: {listed(tensors, 2)}",
            hint="excluded from all figures below; the reason says what is wrong with the file",
        )
