"""A GGUF file once turned into a folder that `from_pretrained` reads in half a second, with its hashes.

transformers reads GGUF by dequantising every tensor (10 to 20 s) and then refuses to save the model, because
its config still says that it is quantised. So the weights are moved into a model made from a clean config.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from gradience.digests import sha256_file
from gradience.errors import require

MANIFEST = "conversion.json"


def convert(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer of `gguf` to the empty `folder`, in bfloat16, and last of all the manifest.

    Raises MissingExtra when the package `gguf` is not installed.
    """
    require("gguf", extra="demo")
    import torch
    import transformers

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantised = transformers.AutoModelForCausalLM.from_pretrained(**source)
    config = copy.deepcopy(quantised.config)
    del config.quantization_config
    plain: Any = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict())
    plain.tie_weights()
    plain.to(torch.bfloat16).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    manifest = {
        "source": gguf.name,
        "source_sha256": sha256_file(gguf),
        "note": "dequantised from GGUF, stored as bfloat16: not the upstream checkpoint",
        "transformers": transformers.__version__,
        "files": {path.name: sha256_file(path) for path in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
