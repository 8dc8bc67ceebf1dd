"""`gradience demo`: the audit of the bundled adapter, and what to type next."""

import json
import shlex
import shutil

from gradience.cli import app, demo


def shown_commands(screen):
    _, _, steps = screen.partition("\nNext steps\n")
    return [line[16:] for line in steps.splitlines() if line[16:].startswith("gradience ")]


def test_its_next_commands_can_be_typed(tmp_path, monkeypatch, capsys):
    """Also from a folder whose name has a space: the command is read as a shell reads it."""
    folder = tmp_path / "my tools"
    shutil.copytree(demo.example_adapter(), folder / "example")
    monkeypatch.setattr(demo, "example_adapter", lambda: folder / "example")
    monkeypatch.chdir(tmp_path)
    assert app.run(["demo"]) == 0
    screen = capsys.readouterr().out
    assert screen.startswith("$ gradience audit 'my tools/example'\n\nAudit of ")
    commands = shown_commands(screen)
    assert len(commands) == 4
    rows = [json.dumps({"text": f"review {place}", "label": place % 2}) for place in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    shutil.copytree(folder / "example", tmp_path / "your_adapter")
    monkeypatch.setattr(demo, "train_and_decide", lambda output: 0)
    for command in commands:
        if "shrink" in command:
            command += " --base-model embedded:minilm --dry-run"
        assert app.run(shlex.split(command)[1:]) == 0


def test_a_folder_cannot_steer_the_terminal(tmp_path, monkeypatch, capsys):
    hostile = tmp_path / "\x1b]0;owned\x07"
    shutil.copytree(demo.example_adapter(), hostile)
    monkeypatch.setattr(demo, "example_adapter", lambda: hostile)
    assert app.run(["demo"]) == 0
    screen = capsys.readouterr().out
    assert "\x1b" not in screen
    assert screen.count("\\x1b]0;owned\\x07") >= 3
