"""A training that was killed: resumed to the bit, recognized when it is done, never mistaken for another."""

from pathlib import Path
from typing import Any

import pytest
import torch
from killing import KILLED, WRITING, apart, drawn, in_child, moments_of, watched
from raising import raises
from safetensors.torch import save_file
from tiny_training import recipe, run, weights

from gradience.errors import InputError, OutputError
from gradience.models.settings import ModelSettings
from gradience.reports.training import TrainingReport
from gradience.telemetry import TelemetryReader
from gradience.training import trainer as training
from gradience.training.resume import (
    MARK,
    complete_checkpoints,
    library_write_errors,
    remove_incomplete,
)


class Stop(Exception):
    """What ends a training in these tests."""


def stopped_at(step: int) -> Any:
    def on_step(done: int, planned: int) -> None:
        if done == step:
            raise Stop

    return on_step


KILLS = 3


def killed_in(root: Path, model: ModelSettings) -> None:
    """Train undisturbed in `whole`; in `killed`, with kills at random moments and while checkpoints are written."""

    def train(folder: str) -> None:
        run(model, root / folder, recipe=recipe(max_steps=12, save_steps=1))

    everything, writing = watched(), watched("training/resume.py", *WRITING)
    moments = moments_of(lambda: train("whole"), everything)
    writes = moments_of(lambda: train("counted"), writing)
    for moment in drawn(moments, 2 * KILLS, seed=5)[:KILLS]:
        assert in_child(lambda: train("killed"), everything, moment) == KILLED, moment
    for moment in drawn(writes, 2 * KILLS, seed=6)[:KILLS]:
        assert in_child(lambda: train("killed"), writing, moment) == KILLED, moment
    assert in_child(lambda: train("killed")) == 0
    assert not list(root.rglob("*.tmp"))


@pytest.mark.slow
def test_killed_at_drawn_moments_it_ends_with_the_same_bytes(causal, tmp_path):
    apart(killed_in, tmp_path, causal, models=True)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    whole, killed = (TrainingReport.read(tmp_path / name / "training.json") for name in ("whole", "killed"))
    assert killed.start == whole.start
    assert killed.loss == whole.loss
    assert killed.resumed_from
    assert whole.resumed_from == []


def test_a_checkpoint_without_its_mark_is_none(tmp_path):
    for step, complete in ((5, True), (10, True), (15, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if complete:
            (folder / MARK).touch()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-10"]
    remove_incomplete(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]


def test_a_full_disk_ends_a_training_as_a_disk_that_refuses_and_it_resumes(causal, tmp_path, monkeypatch):
    run(causal, tmp_path / "whole", recipe=recipe(save_steps=1))
    save, saved = torch.save, []

    def save_until_full(value: Any, file: Any, *more: Any, **options: Any) -> None:
        saved.append(file)
        save(value, file if len(saved) < 8 else "/dev/full", *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_until_full)
        with pytest.raises(OutputError, match="cannot write") as caught:
            run(causal, tmp_path / "full", recipe=recipe(save_steps=1))
    assert caught.value.code == "write-failed"
    assert run(causal, tmp_path / "full", recipe=recipe(save_steps=1)).resumed_from
    assert weights(tmp_path / "full") == weights(tmp_path / "whole")


def test_what_libraries_say_of_a_disk_is_told_from_their_other_errors(tmp_path):
    for write in (
        lambda: torch.save({"a": torch.zeros(9)}, "/dev/full"),
        lambda: torch.save({}, tmp_path / "missing" / "file"),
        lambda: save_file({"a": torch.zeros(9)}, tmp_path / "missing" / "file"),
        lambda: (tmp_path / "missing" / "file").write_text(""),
    ):
        with pytest.raises(OutputError, match="cannot write"), library_write_errors(tmp_path):
            write()
    with pytest.raises(RuntimeError, match="must match"), library_write_errors(tmp_path):
        torch.zeros(2) + torch.zeros(3)


def test_an_unfinished_training_is_not_continued_with_other_settings(causal, tmp_path):
    with pytest.raises(Stop):
        run(causal, tmp_path, recipe=recipe(save_steps=1), on_step=stopped_at(3))
    with raises(InputError, "other-training", "with different settings"):
        run(causal, tmp_path, recipe=recipe(save_steps=1, lr=1e-3))
    assert run(causal, tmp_path, recipe=recipe(save_steps=1)).resumed_from == [2]


def test_killed_after_its_last_step_it_repeats_those_after_the_last_checkpoint(
    classifier, tmp_path, monkeypatch
):
    """With a saved head beside the factors, in the middle of an epoch."""
    asked = recipe(save_steps=3, max_steps=7, logging_steps=5)
    whole = run(classifier, tmp_path / "whole", recipe=asked)

    def die(*args: Any) -> None:
        raise Stop

    output = tmp_path / "killed"
    with monkeypatch.context() as patched:
        patched.setattr(training, "store", die)
        with pytest.raises(Stop):
            run(classifier, output, recipe=asked)
    killed = run(classifier, output, recipe=asked)
    assert (killed.steps, killed.planned_steps, killed.resumed_from) == (7, 7, [6])
    assert weights(output) == weights(tmp_path / "whole")
    assert killed.loss == whole.loss
    assert killed.start == whole.start
    assert not killed.diverged
    ends = [record for record in TelemetryReader(output / "run.jsonl") if record.event == "run_end"]
    assert ends[-1].step == 7
    assert sorted(path.name for path in output.iterdir()) == ["adapter", "run.jsonl", "training.json"]


@pytest.mark.parametrize(("logging", "steps"), [(10, 7), (5, 7), (3, 6), (10, 10)])
def test_the_loss_after_a_resume_is_that_of_a_training_that_was_left_alone(logging, steps, causal, tmp_path):
    asked = recipe(save_steps=2, max_steps=steps, logging_steps=logging)
    whole = run(causal, tmp_path / "whole", recipe=asked)
    with pytest.raises(Stop):
        run(causal, tmp_path / "killed", recipe=asked, on_step=stopped_at(5))
    killed = run(causal, tmp_path / "killed", recipe=asked)
    assert killed.resumed_from == [4]
    assert killed.loss == whole.loss
    plain = run(causal, tmp_path / "plain", recipe=recipe(max_steps=steps, logging_steps=logging))
    assert plain.loss == pytest.approx(whole.loss, rel=1e-5)  # the same steps, summed in another order


def test_resumed_with_other_versions_it_continues_and_says_so(causal, tmp_path, monkeypatch):
    asked = recipe(save_steps=2)
    before = training.versions()
    with pytest.raises(Stop):
        run(causal, tmp_path, recipe=asked, on_step=stopped_at(3))
    monkeypatch.setattr(training, "versions", lambda: before | {"torch": "9.9"})
    report = run(causal, tmp_path, recipe=asked)
    assert report.resumed_from == [2]
    (earlier,) = report.earlier
    assert (earlier.until_step, earlier.versions, report.versions["torch"]) == (2, before, "9.9")
