"""Does a runtime load a written adapter with the right meaning? A table of runtimes, each a few rules. Pure.

The right meaning is PEFT's: ΔW = s·B·A for every module, with s from the config by PEFT's pattern rule. A runtime gets
it wrong when it refuses the adapter, uses another scale, or leaves a part out without a word. The rules come from runs
(PEFT and vLLM: docs/runtimes.md) or from the source of the version named, and every verdict says from which.
"""

from gradience.runtimes.verdict import verdicts

__all__ = ["verdicts"]
