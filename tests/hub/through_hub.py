"""Run in a process of its own, with HF_ENDPOINT and HF_HOME in its environment: a JSON line for each case of stdin.

A text is an adapter that is audited, `base NAME` a base that is located, `tokenizer NAME` an adapter whose tokenizer is
fetched as well, a list the words of a command line.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import huggingface_hub.file_download
from hub_server import cdn_is_allowed

from gradience import audit_adapter
from gradience.adapters.formats import open_adapter
from gradience.cli.app import run
from gradience.errors import GradienceError
from gradience.models.locate import locate
from gradience.models.settings import ModelSettings
from gradience.models.tokenizers import with_tokenizer

cdn_is_allowed()
huggingface_hub.file_download.time.sleep = lambda seconds: None  # between its attempts


def outcome(case: str | list[str]) -> dict[str, object]:
    if isinstance(case, list):
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(case)
        texts = [stream.buffer.getvalue().decode() for stream in (out, err) if stream.flush() is None]
        return {"exit": int(code), "out": texts[0], "err": texts[1]}
    try:
        if case.startswith("base "):
            folder, name, commit = locate(ModelSettings(name=case.removeprefix("base ")))
            return {"files": sorted(path.name for path in folder.iterdir()), "name": name, "commit": commit}
        if case.startswith("tokenizer "):
            with open_adapter(Path(case.removeprefix("tokenizer ")), tokenizer=True) as opened:
                folder = opened.location.weights[0].parent
            model = with_tokenizer(ModelSettings(name="base"), None, [folder])
            files = {
                path.name: path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors"
            }
            return {"files": files, "used": model.tokenizer == str(folder)}
        return audit_adapter(case).adapter.model_dump(mode="json")
    except GradienceError as error:
        return {"code": error.code, "exit": error.exit_code, "message": str(error), "hint": error.hint}


for case in json.load(sys.stdin):
    sys.stdout.write(json.dumps(outcome(case)) + "\n")
