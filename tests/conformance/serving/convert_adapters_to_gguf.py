"""llama.cpp's own converter on many adapters: each in a process of its own, forked from one that has loaded PyTorch.

    python convert_adapters_to_gguf.py LLAMA_CPP_SOURCE BASE_FOLDER REQUEST.json

The request is a list of {adapter, out, log}; what the converter says goes to `log`. No file at `out`: it refused.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path


def main(source: Path, base: Path, request: Path) -> None:
    """Convert all of them, in float32."""
    sys.path.insert(0, str(source / "gguf-py"))
    import gguf  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    for job in json.loads(request.read_text(encoding="utf-8")):
        child = os.fork()
        if child == 0:
            convert(source / "convert_lora_to_gguf.py", base, **job)
        os.waitpid(child, 0)


def convert(script: Path, base: Path, adapter: str, out: str, log: str) -> None:
    """Run the script as its command line would, and end the process."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = [str(script), "--base", str(base), "--outfile", out, "--outtype", "f32", adapter]
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except BaseException as end:  # noqa: BLE001  whatever ends the converter is a refusal
        if isinstance(end, SystemExit) and not end.code:
            os._exit(0)
        traceback.print_exc()
        sys.stderr.flush()
        Path(out).unlink(missing_ok=True)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
