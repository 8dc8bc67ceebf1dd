"""Reinforcement learning: rewards, distance from the reference model, length of completions.

The loss is left alone: advantages within a group add up to zero, so with one update a batch GRPO's loss is
little more than its KL term (Shao et al., DeepSeekMath, 2024, eq. 3) and may well rise while the policy
improves. Sources of each rule stand in its docstring; where a threshold is ours, docs/reference/monitor_rules.md
says on which runs it was tried.
"""

from __future__ import annotations

from gradience.monitor.run import MIN_LOGS, Observation, Observations, Run, evidence, need_logs, need_method
from gradience.monitor.series import Series
from gradience.rules import need, rule

GAO = "Gao, Schulman and Hilton, Scaling Laws for Reward Model Overoptimization (2023)"
GRPO = "Shao et al., DeepSeekMath (2024), the advantage of GRPO; Yu et al., DAPO (2025)"
LENGTH = "Yu et al., DAPO (2025); Liu et al., Understanding R1-Zero-Like Training (2025)"

NOTHING = Series()
START, END = (0.0, 0.25), (0.8, 1.0)
"""Parts of a run that are compared."""
CLEAR = 2.0
"""Standard errors from which a difference counts as one."""


def _logged(run: Run, name: str) -> Series:
    return need_method(run, "reinforcement").rl.get(name, NOTHING)


def _reward_rose(run: Run) -> bool:
    """Whether the end of the run is rewarded clearly more than its beginning."""
    reward = _logged(run, "reward")
    before, after = reward.estimate(*START), reward.estimate(*END)
    return before is not None and after is not None and after.above(before, CLEAR)


KL_HIGH = 1.0
KL_LOST = 10.0


@rule("kl-runaway", "warning", GAO)
def kl_runaway(run: Run) -> Observations:
    """Far from the reference model with no reward to show for it, or so far that nothing is left of it.

    Speaks when the mean of the last fifth of the logged KL (nats per token) is at least 1 and the reward has
    not risen since the first quarter, or at least 10 whatever the reward: text that the reference gives e⁻¹⁰
    of the policy's probability at every token.
    Source: reward bought with KL turns against the true goal (Gao, Schulman and Hilton, Scaling Laws for
    Reward Model Overoptimization, ICML 2023; Stiennon et al., NeurIPS 2020, fig. 5). The thresholds are ours.
    """
    kl = need_logs(_logged(run, "kl"))
    end, top = need(kl.level(*END)), kl.highest
    if end < KL_HIGH or (end < KL_LOST and _reward_rose(run)):
        return
    yield Observation(
        f"the policy is {end:.2g} nats per token away from the reference model"
        + ("" if end >= KL_LOST else ", and the reward has not risen"),
        evidence("KL, mean of the last fifth", end, kl.last_step)
        + (evidence("largest KL", top.high, top.high_step) if top else ()),
        "high" if end >= KL_LOST else "medium",
        "go back to a checkpoint before the KL rose; lower the learning rate or raise beta",
        "a policy that left the reference without being rewarded for it has drifted, and seldom comes back",
    )


COLLAPSED = 0.5
COLLAPSED_OF_BEST = 0.25
SURE = 4.0


@rule("reward-collapse", "error", GAO)
def reward_collapse(run: Run) -> Observations:
    """The reward was clearly higher than where it ends.

    Compares the last fifth with the best tenth of the run. Speaks when the fall is more than four standard
    errors (the best of ten is lucky), at least a quarter of the best level, and at least half of what had been
    gained by then.
    Source: the rise and fall of reward in overoptimised policies (Gao et al. 2023) and in unstable GRPO runs
    (Yu et al., DAPO, 2025, on what keeps them stable). The thresholds are ours.
    """
    reward = need_logs(_logged(run, "reward"), 2 * MIN_LOGS)
    first, end, top = need(reward.estimate(*START)), need(reward.estimate(*END)), reward.highest
    windows = [reward.estimate(i / 10, (i + 1) / 10) for i in range(10)]
    best = max((window for window in windows if window), key=lambda window: window.mean)
    fall = best.mean - end.mean
    if not best.above(end, SURE) or fall < COLLAPSED_OF_BEST * abs(best.mean):
        return
    if fall < COLLAPSED * (best.mean - first.mean):
        return
    yield Observation(
        f"the reward ends at {end.mean:.3g}, after {best.mean:.3g} at its best",
        evidence("best mean over a tenth of the run", best.mean)
        + evidence("mean of the last fifth", end.mean, reward.last_step)
        + (evidence("highest logged reward", top.high, top.high_step) if top else ()),
        "high",
        "use a checkpoint from before the fall; lower the learning rate, raise beta or clip gradients",
        "the policy unlearned what it was rewarded for; where prompts became harder on purpose, compare on old ones",
    )


SAME = 0.9


@rule("constant-reward", "warning", GRPO)
def constant_reward(run: Run) -> Observations:
    """All completions of a prompt got the same reward over the second half, and no reward was gained.

    Speaks when `frac_reward_zero_std` averages 0.9 or more over the second half (where it is not logged:
    `reward_std` is zero there, or the reward never moved), unless the reward has risen (a solved task) or
    collapsed (which is said already).
    Source: GRPO's advantage is (reward − mean of the group) / its deviation (Shao et al. 2024): zero for such
    a group, so it teaches nothing; DAPO leaves those groups out for that reason (Yu et al. 2025, §3.2).
    """
    reward = need_logs(_logged(run, "reward"))
    if _reward_rose(run) or reward_collapse.statements(run):
        return
    spread, share = _logged(run, "reward_std"), _logged(run, "zero_std").level(0.5, 1.0)
    if share is not None:
        constant = share >= SAME
    elif spread.count:
        constant = spread.level(0.5, 1.0) == 0
    else:
        constant = reward.lowest is not None and reward.lowest.low == max(b.high for b in reward.buckets)
    if not constant:
        return
    said = f"in {share:.0%} of the groups of the second half" if share is not None else "all along"
    yield Observation(
        f"all completions of a prompt got the same reward {said}: there was nothing to learn from",
        evidence("reward, second half", reward.level(0.5, 1.0), reward.last_step)
        + evidence("groups without a difference in reward, second half", share),
        "high",
        "look at the reward of single completions: prompts may be too hard or too easy, the reward function broken or"
        " too coarse; more generations per prompt help when rewards are rare",
        "only differences within a group move the policy",
    )


LONGER = 2.0
LONGER_TOKENS = 10.0
CUT = 0.5
AT_THE_LIMIT = 0.9


@rule("length-blowup", "warning", LENGTH)
def length_blowup(run: Run) -> Observations:
    """Completions became twice as long, and either most of them are cut off or the reward did not rise with it.

    Speaks when the last fifth is at least twice as long as the shortest mean of the first quarter and 10 tokens
    longer, and half of the completions there reach the limit, or the reward has not risen. Completions that
    grow with the reward are what reasoning looks like, and are left alone.
    Source: completions cut at the limit are rewarded wrongly and add noise (Yu et al., DAPO, 2025, §3.4);
    the loss of GRPO favours long wrong answers (Liu et al., Understanding R1-Zero-Like Training, 2025, §3.1).
    """
    length = need_logs(_logged(run, "length"))
    before, after = min(bucket.mean for bucket in length.part(*START)), need(length.level(*END))
    if after < LONGER * before or after - before < LONGER_TOKENS:
        return
    cut = _logged(run, "clipped").level(*END)
    limit = run.setup.max_completion_length
    at_limit = cut >= CUT if cut is not None else limit is not None and after >= AT_THE_LIMIT * limit
    if not at_limit and _reward_rose(run):
        return
    why = "and most of them are cut off" if at_limit else "and the reward has not risen with it"
    yield Observation(
        f"completions grew from {before:.0f} to {after:.0f} tokens, {why}",
        evidence("shortest mean length, first quarter", before)
        + evidence("mean length, last fifth", after, length.last_step)
        + evidence("share cut off at the limit, last fifth", cut),
        "high" if at_limit else "medium",
        "read some completions; penalise length, leave out what is cut off (mask_truncated_completions), or allow more"
        " tokens",
        "length that brings no reward is drift, and an answer that is cut off cannot be judged",
    )
