"""llama.cpp: base and adapters through its own converters, then its library, in an environment of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.serving import model
from conformance.serving.cases import Workshop
from conformance.serving.served import Asked, Reply, Served, run, say

SERVE = Path(__file__).with_name("serve_llama_cpp.py")
CONVERT_BASE = Path(__file__).with_name("convert_base_to_gguf.py")


@dataclass(frozen=True)
class LlamaCpp:
    """python: the interpreter that has llama_cpp.   source: llama.cpp's source of the same commit, for its converters.

    The converters need PyTorch and transformers, so they run in this environment; they bring their own gguf package.
    """

    python: Path
    source: Path
    name: str = "llama.cpp"
    slug: str = "llama_cpp"
    table: str = "llama.cpp converter 0c1e570"

    def refuses_here(self, asked: Asked) -> bool:
        """Nothing in the way it is started refuses an adapter."""
        return False

    def serve(self, shop: Workshop, asked: Sequence[Asked]) -> Served:
        """Convert everything, then ask one process."""
        say(f"llama.cpp: {len(asked)} adapters")
        base = shop.root / "base.gguf"
        run(sys.executable, CONVERT_BASE, self.source, shop.base, base)
        refused: dict[str, Reply] = {}
        adapters = []
        for number, item in enumerate(asked):
            path = shop.root / f"{number}.gguf"
            refusal = self._convert(shop, item.made.path, path)
            if refusal:
                refused[item.case.id] = Reply(None, refusal)
            else:
                adapters.append({"id": item.case.id, "path": str(path)})
        request, answer = shop.root / "request.json", shop.root / "answer.json"
        content = {
            "base": str(base),
            "max_model_len": model.MAX_TOKENS,
            "prompts": model.PROMPTS,
            "adapters": adapters,
        }
        request.write_text(json.dumps(content), encoding="utf-8")
        run(self.python, "-P", SERVE, request, answer)
        found = json.loads(answer.read_text(encoding="utf-8"))
        replies = {row["id"]: Reply(row.get("logprobs"), row.get("refusal", "")) for row in found["adapters"]}
        versions = {**found["versions"], "llama.cpp": self._commit()}
        return Served((found["base"],), refused | replies, versions)

    def _commit(self) -> str:
        """The commit of llama.cpp, from the change log of the package around it: the newest is the first."""
        log = (self.source.parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")
        found = re.search(r"ggml-org/llama\.cpp@([0-9a-f]+)", log)
        return found[1] if found else "unknown"

    def _convert(self, shop: Workshop, adapter: Path, out: Path) -> str:
        """The last thing that the converter says when it refuses the adapter; empty when it writes one."""
        script = self.source / "convert_lora_to_gguf.py"
        command = [sys.executable, script, "--base", shop.base, "--outfile", out, "--outtype", "f32", adapter]
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": str(self.source / "gguf-py")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode == 0:
            return ""
        lines = done.stdout.splitlines()
        return next((line for line in lines if "error" in line.lower()), lines[-1]).strip()
