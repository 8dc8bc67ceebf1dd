"""Is B·A the update at all? Initialisations and variants for which it is not."""

from __future__ import annotations

from collections.abc import Iterator

from gradience.adapters.experts import SAY_ORDER
from gradience.adapters.initialisations import initialisation_of
from gradience.adapters.inventory import DORA_REASON
from gradience.audit.findings.facts import Facts, many
from gradience.reports.base.finding import Finding
from gradience.words import counted

SUBTRACT = (
    "audit and compress read the difference to the adapter as it was saved before training: --initial-adapter DIR "
    "(Python: initial_adapter=)"
)


def initialisation(facts: Facts) -> Iterator[Finding]:
    if facts.started is not None:
        rounding = "; against the unquantized base, the rounding of its quantization comes on top"
        yield Finding(
            code="init-subtracted",
            severity="info",
            message=(
                f"initialised with {facts.started}: this is the difference to the initial adapter, of twice the rank: "
                f"what training added to the base as it was before{rounding if facts.started == 'loftq' else ''}"
            ),
        )
    init = facts.config.init.lower() if facts.config else "true"
    start = initialisation_of(init)
    if start is None:
        yield Finding(
            code="init-unknown",
            severity="warning",
            message=f"unknown initialisation {init[:60]!r}: unless it starts from B·A = 0, this is not the update",
            hint="look up what this init_lora_weights does before using a suggestion",
        )
    elif init == "loftq":
        yield Finding(
            code="init-not-update",
            severity="error",
            message="initialised with LoftQ: B·A contains the correction of the quantised base, not only the update",
            hint=f"no rank is suggested from it; {SUBTRACT}",
        )
    elif not start.keeps_base:
        yield Finding(
            code="init-not-update",
            severity="error",
            message=(
                f"initialised with {init}: the base weights were changed at the start and B·A contains that change. "
                "These are spectra of B·A, not of what training learned"
            ),
            hint=f"no rank is suggested from it; {SUBTRACT}",
        )
    elif not start.zero:
        rounding = "factors whose product is 0 to rounding alone (orthogonal): B·A held that rounding before training"
        random = "random non-zero factors (false): B·A was noise of full rank r before training"
        yield Finding(
            code="init-noise",
            severity="error",
            message=f"initialised with {rounding if init == 'orthogonal' else random}",
            hint="energy ranks are inflated by it, so none is suggested; the default init_lora_weights avoids it",
        )


def variant(facts: Facts) -> Iterator[Finding]:
    fields = facts.config.fields if facts.config else {}
    for name, what in (
        ("use_qalora", "QA-LoRA (inputs are pooled before A)"),
        ("use_bdlora", "BD-LoRA (block-diagonal factors)"),
        ("kasa_config", "KaSA (a diagonal between the factors, and a truncated base)"),
    ):
        if fields.get(name):
            yield Finding(
                code="variant-not-update",
                severity="error",
                message=f"{what}: the update is not s·B·A",
                hint="the spectra are those of B·A, so no rank is suggested; evaluate a smaller rank on the task",
            )
    if fields.get("alora_invocation_tokens"):
        yield Finding(
            code="activated-lora",
            severity="info",
            message="activated LoRA: the update acts only after its invocation tokens",
        )


def expert_order(facts: Facts) -> Iterator[Finding]:
    yield from many(
        "expert-order",
        "info",
        facts.grouped,
        "with the columns of lora_B grouped by expert, as the config says (lora_B_layout); PEFT 0.21 reads them in "
        "another order",
        "`gradience convert` writes them in PEFT's order",
    )
    yield from many(
        "expert-order-unknown",
        "warning",
        facts.unordered,
        "of stacked experts saved by Unsloth without lora_B_layout, read in PEFT's order. Before release 2026.9.6, "
        "unsloth_zoo grouped the columns of lora_B by expert: if it did here, the figures of these modules are wrong",
        SAY_ORDER,
    )


def dora(facts: Facts) -> Iterator[Finding]:
    magnitudes = sum(note.reason == DORA_REASON for note in facts.other)
    declared = bool(facts.config and facts.config.use_dora)
    if magnitudes:
        yield Finding(
            code="dora",
            severity="warning",
            message=(
                f"DoRA: {counted(magnitudes, 'magnitude vector')} beside the factors. ΔW is not s·B·A alone; "
                "the audit covers the low-rank part of the direction"
            ),
            hint="evaluate a smaller rank on the task; compressing DoRA needs the base weights (--base-model)",
        )
    if facts.config and declared != bool(magnitudes):
        held = "no magnitude vectors" if declared else "magnitude vectors"
        yield Finding(
            code="config-disagrees",
            severity="error",
            message=f"the config says use_dora={str(declared).lower()}, the file contains {held}",
            hint="save it again: the file and the config do not belong together, or the save is incomplete",
        )
