"""The room that vLLM makes for adapters when it starts: as large as those that are served need, and no larger.

One slot: adapters answer one after another, so that none depends on which others are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from gradience.adapters.formats import open_adapter
from gradience.ranks import max_lora_rank_step


class Slots(NamedTuple):
    """What they hold."""

    rank: int
    """A max_lora_rank that vLLM takes: of the largest module, and what lies between the steps."""
    modules: frozenset[str]
    """Last parts of the names of the modules that have LoRA, such as `q_proj`."""

    def hold(self, needs: Slots) -> bool:
        """Whether an adapter that needs so much fits."""
        return needs.rank <= self.rank and needs.modules <= self.modules

    def joined(self, other: Slots) -> Slots:
        """What holds both."""
        return Slots(max(self.rank, other.rank), self.modules | other.modules)

    def settings(self) -> dict[str, Any]:
        """Of `vllm.LLM`.

        Only the modules that are needed: with LoRA on the head vLLM 0.32 cannot score prompts on a processor, and
        every module takes memory.
        """
        if not self.modules:
            return {"enable_lora": False}
        return {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": self.rank,
            "lora_target_modules": sorted(self.modules),
        }


NO_SLOTS = Slots(0, frozenset())


def slots_of(folder: Path) -> Slots:
    """What the adapter in `folder` needs: the largest rank that its config names or its file holds, and where."""
    with open_adapter(folder) as adapter:
        fields = {} if adapter.config is None else adapter.config.fields
        patterns = fields.get("rank_pattern") or {}
        ranks = [
            int(fields.get("r") or 1),
            *map(int, patterns.values()),
            *(pair.rank for pair in adapter.pairs),
        ]
        largest = max(ranks)
        rank = max_lora_rank_step(largest) or largest  # beyond its largest vLLM refuses
        return Slots(rank, frozenset(pair.module.rpartition(".")[2] for pair in adapter.pairs))
