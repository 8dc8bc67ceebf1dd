"""llama.cpp: base and adapters through its own converters, then its library, in an environment of its own."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.serving import model
from conformance.serving.architectures import Architecture
from conformance.serving.cases import Workshop
from conformance.serving.served import Asked, Reply, Served, asked_of, replies_of, run, say
from gradience.runtimes.verdict import Scale, gguf_scale

SERVE = Path(__file__).with_name("serve_llama_cpp.py")
CONVERT_BASE = Path(__file__).with_name("convert_base_to_gguf.py")
CONVERT_ADAPTERS = Path(__file__).with_name("convert_adapters_to_gguf.py")


@dataclass(frozen=True)
class LlamaCpp:
    """python: the interpreter that has llama_cpp.   source: llama.cpp's source of the same commit, for its converters.

    The converters need PyTorch and transformers, so they run in this environment; they bring their own gguf package.
    """

    python: Path
    source: Path
    name: str = "llama.cpp"
    slug: str = "llama_cpp"
    claims: bool = False
    scale: Scale = gguf_scale  # α over the rank of the tensors

    def asks(self, architecture: Architecture) -> bool:
        """Those that its own converter and ours of the base model were tried on."""
        return architecture.gguf

    def serve(self, shop: Workshop, asked: Sequence[Asked]) -> Served:
        """Convert everything, then ask one process."""
        say(f"llama.cpp, {shop.architecture.name}: {len(asked)} adapters")
        refused = self._convert(shop, asked)
        adapters = {
            item.case.id: gguf_of(shop, number)
            for number, item in enumerate(asked)
            if item.case.id not in refused
        }
        served = self.answers(shop.base, adapters, shop.root)
        return served._replace(replies=refused | dict(served.replies))

    def answers(self, base: model.Base, adapters: Mapping[str, Path], scratch: Path) -> Served:
        """What the library answers with each of the GGUF files, on the base that its own code converts."""
        gguf = scratch / "base.gguf"
        run(sys.executable, CONVERT_BASE, self.source, base.folder, gguf, base.architecture.name)
        content = {
            "base": str(gguf),
            "max_model_len": model.MAX_TOKENS,
            "prompts": model.PROMPTS,
            "adapters": [{"id": name, "path": str(path)} for name, path in adapters.items()],
        }
        answers = asked_of(self.python, SERVE, scratch, content)
        versions = {**answers["versions"], "llama.cpp": self._commit()}
        return Served((answers["base"],), replies_of(answers), versions)

    def _commit(self) -> str:
        """The commit of llama.cpp, from the change log of the package around it: the newest is the first."""
        log = (self.source.parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")
        match = re.search(r"ggml-org/llama\.cpp@([0-9a-f]+)", log)
        return match[1] if match else "unknown"

    def _convert(self, shop: Workshop, asked: Sequence[Asked]) -> dict[str, Reply]:
        """Convert the adapters; the reply for each that the converter refused."""
        logs = [shop.root / f"{number}.log" for number in range(len(asked))]
        jobs = [
            {"adapter": str(item.adapter.path), "out": str(gguf_of(shop, number)), "log": str(logs[number])}
            for number, item in enumerate(asked)
        ]
        request = shop.root / "convert.json"
        request.write_text(json.dumps(jobs), encoding="utf-8")
        run(sys.executable, CONVERT_ADAPTERS, self.source, shop.base.folder, request)
        return {
            item.case.id: Reply(None, reason(logs[number].read_text(encoding="utf-8")))
            for number, item in enumerate(asked)
            if not gguf_of(shop, number).exists()
        }


def gguf_of(shop: Workshop, number: int) -> Path:
    """Where the converter writes an adapter."""
    return shop.root / f"{number}.gguf"


def reason(log: str) -> str:
    """The last thing that the converter says when it refuses an adapter."""
    lines = log.splitlines()
    return next((line for line in lines if "error" in line.lower()), lines[-1]).strip()
