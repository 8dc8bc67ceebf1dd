"""No verb that reads a config runs anything that it says: no process, no connection, no code out of its texts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from killing import HANGS

from gradience.cli.demo import example_adapter

WATCHED = """
import sys
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
             "socket.connect", "socket.sendto", "pickle.find_class")
seen = []
def watch(event, arguments):
    if event in FORBIDDEN:
        seen.append(f"{event} {arguments!r}"[:200])
    elif event in ("compile", "exec", "import") and "PWNED" in repr(arguments[0])[:100_000]:
        seen.append(f"{event} {arguments[0]!r}"[:200])
import platform, threadpoolctl
import torch, transformers, peft, datasets, accelerate  # libraries look at the machine when they are imported
from gradience.cli.app import run
platform.platform(), platform.processor()  # cached, and may ask a program of the system
threadpoolctl.threadpool_info()  # up to 3.6 it asks ldconfig for libc, once
sys.addaudithook(watch)
for words in WORDS:
    code = run(words)
    sys.stderr.write(f"{code} {words[:3]}\\n")
print(seen)
"""
CODE = "__import__('os').system('touch PWNED')"
YAMLS = {
    "tag": f'learning_rate: !!python/object/apply:os.system ["touch PWNED"]\nlora_r: 8\nmodel: {{name: "{CODE}"}}\n',
    "texts": f'learning_rate: "{CODE}"\nlora_r: "$(touch PWNED)"\nuse_peft: true\ntrust_remote_code: true\n'
    f'dataset_name: "{CODE}"\nmodel_name_or_path: "{CODE}"\n',
    "bench": 'model: {name: "embedded:PWNED"}\ntask: {profile: "PWNED.py", options: {}}\n'
    "lora: {probe_r: 4, alpha: 4}\ntrain: {max_steps: 1, lr: 1e-3}\n",
}


@pytest.mark.slow
def test_no_verb_runs_what_a_config_says(tmp_path):
    for name, text in YAMLS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "PWNED.py").write_text("open('PWNED', 'w').close()\ndef load(): pass\n")
    adapter = Path(shutil.copytree(example_adapter(), tmp_path / "adapter"))
    config = adapter / "adapter_config.json"
    hostile = {
        "auto_mapping": {"base_model_class": "PWNED", "parent_library": "PWNED"},
        "base_model_name_or_path": CODE,
        "task_type": CODE,
        "revision": "$(touch PWNED)",
    }
    config.write_text(json.dumps(json.loads(config.read_text()) | hostile))
    record = {"event": "run_start", "run_id": "r", "config": {"model_name": CODE, "trainer": {"class": CODE}}}
    (tmp_path / "run.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "bench.json").write_text(json.dumps({"schema": "gradience.bench/4", "model": CODE}))
    words = [
        ["audit", "adapter"],
        ["compress", "adapter", "--rank", "4", "--output", "smaller"],
        ["compare", "adapter", "smaller"],
        ["check", "adapter", "tag.yaml"],
        ["check", "texts.yaml"],
        ["monitor", "run.jsonl"],
        ["bench", "aggregate", "."],
        *(["bench", "run", "--config", f"{name}.yaml", "--output", "out"] for name in YAMLS),
        *(["bench", "run", "--config", f"{name}.yaml", "--dry-run"] for name in YAMLS),
    ]
    done = subprocess.run(
        [sys.executable, "-P", "-c", WATCHED.replace("WORDS", repr(words))],
        capture_output=True, text=True, cwd=tmp_path, timeout=HANGS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert not (tmp_path / "PWNED").exists()
