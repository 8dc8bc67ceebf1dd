"""What a run logged over its steps: loss or rewards, evaluations, use of rank, audits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from gradience.reports.base.blocks import Block, Column, Facts, Heading, Inline, Paragraph, Span, Table
from gradience.reports.base.charts import area, sparkline
from gradience.reports.base.numbers import plain, plural, sig, signed, trimmed
from gradience.reports.monitor import Curve, EvaluationPoint, RankUse, Rewards, RunReport, SplitReport

SPARK, SIDE_SPARK = 32, 16
"""Columns of a small chart."""
SHOWN = ("reward", "accuracy", "f1", "exact_match", "rewards/accuracies", "mean_token_accuracy")
"""Metrics of an evaluation that are shown without being asked for, at most two."""
NOT_SHOWN = (
    *("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time"),
    "num_tokens",
)
"""What the Trainer reports about an evaluation itself, and what grows whatever the model learns."""
RL_SERIES = {
    "KL, nats/token": "kl",
    "KL, nats/completion": "sequence_kl",
    "entropy": "entropy",
    "length, tokens": "length",
    "cut off at the limit": "clipped",
    "reward, std": "reward_std",
    "groups, equal rewards": "zero_std",
}
RANK_SERIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "k@90, median module": ("energy_rank_90_p50", trimmed),
    "k@90, 9 of 10 modules": ("energy_rank_90_p90", trimmed),
    "stable rank, median": ("stable_rank_median", sig),
    "utilization, median": ("utilization_median", sig),
    "‖ΔW‖, all modules": ("fro_norm", sig),
}


def logged_blocks(run: RunReport, gap_threshold: float, columns: int, *, verbose: bool) -> list[Block]:
    """Return loss, or rewards in reinforcement learning, and the evaluations of each split. columns: of a chart."""
    blocks: list[Block] = []
    if run.rewards is not None:
        blocks += _reward_blocks(run.rewards, run.loss, columns, verbose=verbose)
    if run.rewards is None or not run.rewards.reward.count:
        blocks += _chart("Loss", run.loss, _curve_words(run.loss), columns)
    if verbose:
        blocks += _side_series(run)
    threshold = gap_threshold if run.setup.method == "supervised" else None
    for name, split in run.evaluations.items():
        blocks += _evaluation_blocks(name, split, threshold, verbose=verbose)
    return blocks


# ---------------------------------------------------------------- loss and rewards


def _chart(title: str, curve: Curve, words: str, columns: int) -> list[Block]:
    """A heading with the curve in words, and the curve drawn where there is one."""
    heading = Heading(title, aside=words)
    if not curve.points:
        return [heading]
    means = [point.mean for point in curve.points]
    return [heading, area(means, curve.points[0].step, curve.points[-1].step, width=columns)]


def _curve_words(curve: Curve) -> str:
    if not curve.count:
        unusable = f"no finite value in {plural(curve.nonfinite, 'record')}"
        return unusable if curve.nonfinite else "nothing logged"
    words = f"{sig(curve.first)} → {sig(curve.last)}, lowest {sig(curve.low)} at step {curve.low_step}"
    return f"{words}, {_nonfinite_words(curve)}" if curve.nonfinite else words


def _nonfinite_words(curve: Curve) -> str:
    return f"NaN or infinite {plural(curve.nonfinite, 'time')} from step {curve.first_nonfinite_step}"


def _reward_blocks(rewards: Rewards, loss: Curve, columns: int, *, verbose: bool) -> list[Block]:
    """Reward as a chart, the rest as a line each; the loss only on request, because it is no measure of progress."""
    reward = rewards.reward
    words = (
        f"{sig(reward.first)} → {sig(reward.last)}, highest {plain(reward.high)} at step {reward.high_step}"
    )
    series: dict[str, Curve] = {label: getattr(rewards, name) for label, name in RL_SERIES.items()}
    series |= {"loss (not progress)": loss} if verbose else {}
    rows = [
        (label, [point.mean for point in curve.points], f"{sig(curve.first)} → {sig(curve.last)}")
        for label, curve in series.items()
    ]
    return [*_chart("Reward", reward, words if reward.count else "none logged", columns), *_series(rows)]


def _side_series(run: RunReport) -> list[Block]:
    """Gradient norm and learning rate."""
    rows = []
    for name, curve in (("gradient norm", run.grad_norm), ("learning rate", run.learning_rate)):
        change = (
            f"{sig(curve.first)} → {sig(curve.last)}, highest {sig(curve.high)} at step {curve.high_step}"
        )
        words = _nonfinite_words(curve) if curve.nonfinite else change
        rows.append((name, [point.mean for point in curve.points], words))
    return _series(rows, SIDE_SPARK)


def _series(rows: Iterable[tuple[str, list[float], str]], width: int = SPARK) -> list[Block]:
    """A row for each series: its name, a small chart, and its figures; nothing where nothing was logged."""
    cells: list[list[Inline]] = [
        [label, sparkline(values, width), words] for label, values, words in rows if values
    ]
    return [Table([Column(), Column(drop=1), Column(wrap=True)], cells)] if cells else []


# ---------------------------------------------------------------- evaluations


def _evaluation_blocks(
    name: str, split: SplitReport, gap_threshold: float | None, *, verbose: bool
) -> list[Block]:
    best, last = split.best, split.last
    points, note = {"best": best, "last": last}, ""
    if best is not None and last is not None and best.step == last.step:
        points, note = {"last": last}, ", the last is the best" if split.count > 1 else ""
    words = (plural(split.count, "evaluation"), " on ", Span(name, "name"), note)
    blocks: list[Block] = [Heading("Evaluation", aside=words)]
    shown = {label: point for label, point in points.items() if point is not None}
    if shown:
        blocks.append(_evaluation_table(shown, split))
    facts: list[tuple[str, Inline]] = []
    if split.loss.count > 1:
        facts.append(("loss", sparkline([point.mean for point in split.loss.points], SPARK)))
    if last is not None and last.gap is not None:
        facts.append(("gap to training", _gap_words(last.gap, gap_threshold)))
    if verbose and last is not None:
        facts += [(key, plain(value)) for key, value in last.metrics.items() if key not in NOT_SHOWN]
    return [*blocks, Facts(facts)] if facts else blocks


def _evaluation_table(points: Mapping[str, EvaluationPoint], split: SplitReport) -> Table:
    """Best and last evaluation: step, loss, perplexity where the loss is one, and the known metrics."""
    metrics = [key for key in SHOWN if any(key in point.metrics for point in points.values())][:2]
    perplexity = any(point.perplexity is not None for point in points.values())
    titles = ["step", "loss", *(["perplexity"] if perplexity else []), *metrics]
    rows: list[list[Inline]] = []
    for label, point in points.items():
        loss = "NaN" if point.loss is None and split.loss.nonfinite else sig(point.loss)
        figures = [sig(point.perplexity)] if perplexity else []
        figures += [sig(point.metrics.get(key)) for key in metrics]
        rows.append([label, str(point.step), loss, *figures])
    return Table([Column(), *(Column(title, ">") for title in titles)], rows)


def _gap_words(gap: float, threshold: float | None) -> Inline:
    """With a ratio of perplexities where the loss is a cross-entropy, which `threshold` says."""
    if threshold is None:
        return signed(gap)
    ratio = sig(math.exp(min(gap, 700.0)))
    return (
        f"{signed(gap)} nats",
        Span(f" (perplexity ratio {ratio}, alert threshold {trimmed(threshold)})", "dim"),
    )


# ---------------------------------------------------------------- use of rank


def rank_use_blocks(use: RankUse, *, verbose: bool) -> list[Block]:
    """Return the live spectra over the steps; verbose: the last ones by family of modules."""
    rank = f", rank {use.max_rank}" if use.max_rank else ""
    extra = f", {use.unmeasured} more not measured" if use.unmeasured else ""
    rows = []
    for label, (key, words) in RANK_SERIES.items():
        values = [value for point in use.points if (value := getattr(point, key)) is not None]
        if values:
            rows.append((label, values, f"{words(values[0])} → {words(values[-1])}"))
    return [
        Heading("Use of rank", aside=f"{plural(use.modules, 'module')}{rank}{extra}"),
        *_series(rows),
        *([Paragraph(Span(_when_measured(use), "dim"))] if use.points else []),
        *([_families(use)] if verbose and use.families else []),
    ]


def _when_measured(use: RankUse) -> str:
    """When the spectra were measured, and whether k@90 stands still."""
    steps = [point.step for point in use.points]
    when = f"steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"
    if use.untrained == use.modules:
        state = "every ΔW is zero"
    elif use.settled_since is not None:
        state = f"k@90 settled since step {use.settled_since}"
    else:
        state = "k@90 not settled"
    return f"measured {plural(len(steps), 'time')}, {when}; {state}"


def _families(use: RankUse) -> Table:
    columns = [
        Column("family"),
        Column("modules", ">", drop=1),
        Column("k@90 median", ">"),
        Column("k@90 p90", ">"),
        Column("stable rank", ">", drop=2),
        Column("‖ΔW‖", ">"),
    ]
    rows: list[list[Inline]] = [
        [
            Span(name, "name"),
            str(family.modules),
            trimmed(family.energy_rank_90_p50),
            trimmed(family.energy_rank_90_p90),
            sig(family.stable_rank_median),
            sig(family.fro_norm),
        ]
        for name, family in use.families.items()
    ]
    return Table(columns, rows)


def audit_blocks(audits: Iterable[Mapping[str, int | float | str | None]]) -> list[Block]:
    """Return a line for each audit that was appended to the log."""
    facts: list[tuple[str, Inline]] = []
    for audit in audits:
        suggested = audit.get("suggested_r_global_90")
        rank = f", suggests rank {trimmed(float(suggested))}" if isinstance(suggested, (int, float)) else ""
        stable = audit.get("stable_rank_median", audit.get("stable_rank_mean"))
        use = f"stable rank {sig(float(stable))}" if isinstance(stable, (int, float)) else "no summary"
        facts.append((f"step {audit.get('step')}", use + rank))
    return [Heading("Audits"), Facts(facts)] if facts else []
