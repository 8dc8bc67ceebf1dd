"""Where the rules about reinforcement learning end: shapes that real runs have, one number changed at a time."""

from __future__ import annotations

import pytest

from gradience.monitor import monitor_runs
from gradience.telemetry import TelemetryWriter
from gradience.telemetry.trainers import method_of

STEPS = 40


def ramp(start, end):
    """A value per step from `start` to `end`, reached half way, with a small ripple."""
    return [
        start + (end - start) * min(1.0, 2 * i / STEPS) + 0.01 * (-1) ** i * abs(end) for i in range(STEPS)
    ]


def codes(path, trainer="GRPOTrainer", **columns):
    """Alerts about a run whose logs have these columns; names of TRL's keys with / written as __."""
    with TelemetryWriter(path / "run.jsonl") as run:
        run.start({"trainer": {"class": trainer, "bases": ["Trainer"]}} if trainer else {})
        for i in range(STEPS):
            values = {key.replace("__", "/"): column[i] for key, column in columns.items()}
            run.train_step(i + 1, **{"loss": 0.01 * i, "lr": 1e-6, **values})
    return {alert.code for alert in monitor_runs([path / "run.jsonl"]).runs[0].alerts}


ALIKE, DIFFERENT = [1.0] * STEPS, [0.2] * STEPS
LENGTH, CUT = "completions__mean_length", "completions__clipped_ratio"

CASES = {
    "a task that was solved": ({"reward": ramp(0.1, 1.0), "frac_reward_zero_std": ramp(0.0, 1.0)}, set()),
    "a task that was never solved": ({"reward": [0.0] * STEPS, "frac_reward_zero_std": ALIKE}, {"constant-reward"}),
    "one reward in every log": ({"reward": [0.5] * STEPS}, {"constant-reward"}),
    "no spread": ({"reward": ramp(0.5, 0.5), "reward_std": [0.0] * STEPS}, {"constant-reward"}),
    "a reward that stays where it is": ({"reward": ramp(0.5, 0.5), "frac_reward_zero_std": DIFFERENT}, set()),
    "answers that grow with the reward": (
        {"reward": ramp(0.2, 0.8), LENGTH: ramp(200, 900), CUT: [0.02] * STEPS},
        set(),
    ),
    "answers that grow without it": (
        {"reward": ramp(0.5, 0.5), "reward_std": DIFFERENT, LENGTH: ramp(200, 900)},
        {"length-blowup"},
    ),
    "answers that are cut off": (
        {"reward": ramp(0.2, 0.8), LENGTH: ramp(200, 900), CUT: ramp(0, 0.9)},
        {"length-blowup"},
    ),
    "answers of a few tokens": (
        {"reward": ramp(0.5, 0.5), "reward_std": DIFFERENT, "completion_length": ramp(2, 6)},
        set(),
    ),
    "a KL that pays": ({"reward": ramp(0.2, 0.8), "kl": ramp(0.0, 3.0)}, set()),
    "a KL that does not": ({"reward": ramp(0.5, 0.5), "reward_std": DIFFERENT, "kl": ramp(0.0, 3.0)}, {"kl-runaway"}),
    "a KL beyond everything": ({"reward": ramp(0.2, 0.8), "kl": ramp(0.0, 30.0)}, {"kl-runaway"}),
    "a small KL": ({"reward": ramp(0.5, 0.5), "reward_std": DIFFERENT, "kl": ramp(0.0, 0.3)}, set()),
    "a reward that fell": ({"reward": ramp(0.8, 0.2), "reward_std": DIFFERENT}, {"reward-collapse"}),
    "a penalty that grew": ({"reward": ramp(-0.2, -0.8), "reward_std": DIFFERENT}, {"reward-collapse"}),
    "a little less at the end": ({"reward": ramp(0.8, 0.7), "reward_std": DIFFERENT}, set()),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "said"), CASES.values(), ids=CASES)
def test_what_is_said_of_a_shape(tmp_path, columns, said):
    assert codes(tmp_path, **columns) == said


@pytest.mark.parametrize(
    ("classes", "logged", "method"),
    [
        (["MyTrainer", "GRPOTrainer", "_BaseTrainer", "Trainer"], (), "reinforcement"),
        (["UnslothGRPOTrainer", "_UnslothGRPOTrainer", "Trainer"], (), "reinforcement"),
        (["KTOTrainer", "Trainer"], {"kl"}, "preference"),
        (["SFTTrainer", "Trainer"], {"entropy"}, "supervised"),
        (["GRPOConfig"], (), "reinforcement"),
        (["Trainer"], {"reward"}, "reinforcement"),
        (["Trainer"], {"entropy"}, "supervised"),
        ([], (), "supervised"),
    ],
)
def test_methods(classes, logged, method):
    assert method_of(classes, logged) == method
