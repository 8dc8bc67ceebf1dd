"""llms.txt and SKILL.md: their links lead somewhere, and their commands are those of the command line."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import gradience
from gradience.cli.app import run
from gradience.reports.audit import AuditReport

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import llms_text  # noqa: E402

SKILL = (ROOT / "SKILL.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"^```sh\n(.*?)^```", SKILL, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def test_links_of_llms_txt_lead_somewhere():
    """That the file is current is checked with the other generated documents (`make lint`)."""
    text = llms_text.llms_text()
    assert text.startswith("# Gradience\n\n> Gradience tests smaller ranks of your LoRA adapter")
    targets = re.findall(r"^- \[[^]]+\]\(([^)]+)\)", text, flags=re.MULTILINE)
    assert len(targets) > 40
    assert [target for target in targets if not (ROOT / target).exists()] == []


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
