"""The commands of SKILL.md are those of the command line."""

import json
import re
import shlex
import shutil
from pathlib import Path

import gradience
from gradience.cli.app import run
from gradience.reports.audit import AuditReport

ROOT = Path(__file__).resolve().parent.parent

SKILL = (ROOT / "SKILL.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"^```sh\n(.*?)^```", SKILL, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def test_what_needs_no_base_model_runs_as_it_is_written(tmp_path, monkeypatch, capsys):
    shutil.copytree(
        Path(gradience.__file__).parent / "examples" / "minilm-reviews-r8", tmp_path / "my_adapter"
    )
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        if command[0] in ("audit", "compress", "compare"):
            assert run(list(command)) == 0, command
            if "--json" in command:
                assert AuditReport.model_validate(json.loads(capsys.readouterr().out)).adapter.sha256
    assert (tmp_path / "smaller" / "adapter_config.json").is_file()
