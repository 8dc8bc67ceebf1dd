"""The learning rate reference for LoRA, with its source. No verdicts here.

monitor looks at what a run did, check at what a config will do; both compare with it.
"""

FULL_TUNING_LR = 5e-5
LORA_FACTOR = 10.0
REFERENCE_WIDTH = 2000
WIDTH_EXPONENT = {"llama": 0.781, "qwen": 0.0775}
REFERENCE_ALPHA = 32.0
LR_TOLERANCE = 10.0
"""A learning rate within a factor of ten of the reference is not reported."""

ADAM_LIKE = ("adam", "lion", "ademamix", "came")

THINKING_MACHINES = "Schulman et al., LoRA Without Regret (Thinking Machines, 2025)"


def reference_lr(hidden_size: int | None, alpha: float | None, model: str | None = None) -> float:
    """Return a learning rate from which to start with AdamW and scale α/r: 5e-5 · 10 · (2000/width)^p · 32/α.

    The optimum for LoRA is about ten times that of full fine-tuning and hardly depends on the rank
    as long as α is the same, because the factor 1/r takes the rank out. p = 0.0775 for Qwen, 0.781 for Llama,
    which is also taken for others. Fitted with α = 32; the update is proportional to α·lr, hence 32/α.

    Source: LoRA Without Regret (Thinking Machines, 2025), and `get_lr` of the tinker cookbook for the
    constants. A fit over some fourteen models: good for the order of magnitude, no more.
    """
    family = next((name for name in WIDTH_EXPONENT if model and name in model.lower()), "llama")
    width = (REFERENCE_WIDTH / hidden_size) ** WIDTH_EXPONENT[family] if hidden_size else 1.0
    return FULL_TUNING_LR * LORA_FACTOR * width * (REFERENCE_ALPHA / alpha if alpha else 1.0)


def rate(learning_rate: float, digits: int = 2) -> str:
    """Return a learning rate as people write it: 5e-4, 1.5e-5, 0.01."""
    if 0.001 <= learning_rate < 1000:
        return f"{learning_rate:.{digits}g}"
    mantissa, _, exponent = f"{learning_rate:.{digits - 1}e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def effective_alpha(r: int, alpha: float, *, rslora: bool) -> float:
    """Return the α that gives the same scale under α/r: rsLoRA divides by √r instead."""
    return alpha * r**0.5 if rslora else alpha


def is_adam_like(optimizer: str | None) -> bool:
    """Return whether an optimizer's steps are of Adam's size, as those of the default are, whatever the gradient."""
    return optimizer is None or any(name in optimizer.lower() for name in ADAM_LIKE)
