"""vLLM, in a process of its environment for each max_lora_rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.serving import model
from conformance.serving.architectures import Architecture
from conformance.serving.cases import Workshop
from conformance.serving.served import Asked, Served, asked_of, replies_of, say
from gradience.runtimes.verdict import Scale, peft_scale

SERVE = Path(__file__).with_name("serve_vllm.py")


@dataclass(frozen=True)
class Vllm:
    """python: the interpreter of vLLM's environment.

    name: as in `gradience.runtimes`.   slug: of the JSON file and of the block in docs/results/runtimes.md.
    claims: it is asked about adapters that only claim something.   scale: what it gives a module.
    """

    python: Path
    name: str = "vLLM"
    slug: str = "vllm"
    claims: bool = True
    scale: Scale = peft_scale

    def asks(self, architecture: Architecture) -> bool:
        """All of them: that it does not serve one is a result."""
        return True

    def serve(self, shop: Workshop, asked: Sequence[Asked]) -> Served:
        """One process per max_lora_rank."""
        parts = [
            self._serve(shop, [item for item in asked if item.case.max_lora_rank == rank], rank)
            for rank in sorted({item.case.max_lora_rank for item in asked})
        ]
        replies = {case: reply for part in parts for case, reply in part.replies.items()}
        bases = tuple(base for part in parts for base in part.bases)
        return Served(bases, replies, *parts[0][2:])

    def _serve(self, shop: Workshop, asked: Sequence[Asked], rank: int) -> Served:
        content = {
            "base": str(shop.base.folder),
            "classify": shop.architecture.task == "SEQ_CLS",
            "max_lora_rank": rank,
            "max_model_len": model.MAX_TOKENS,
            "prompts": model.PROMPTS,
            "adapters": [{"id": item.case.id, "path": str(item.adapter.path)} for item in asked],
        }
        say(f"vLLM, {shop.architecture.name}, max_lora_rank {rank}: {len(asked)} adapters")
        answers = asked_of(self.python, SERVE, shop.root, content, f"-{rank}")
        if answers["not_served"]:
            return Served((), {}, answers["versions"], answers["not_served"], answers["broke"])
        return Served((answers["base"],), replies_of(answers), answers["versions"])
