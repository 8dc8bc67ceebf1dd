"""The verdict in a sentence that needs no statistics."""

from __future__ import annotations

from gradience.evidence.outcome import Outcome


def verdict_of(result: Outcome, n: int, margin: float, *, lower_is_better: bool, shares: bool) -> str:
    """Return what the grade means, with the numbers that it hangs on."""
    worst = result.bounds.high if lower_is_better else -result.bounds.low  # how much worse B may be
    least = result.bounds.low if lower_is_better else -result.bounds.high  # how much worse it is at least
    ahead_by = -result.high if lower_is_better else result.low
    allowed = amount(margin, shares)
    if result.flat:
        return f"All {n:,} differences are equal, so nothing can be said about other examples."
    if result.grade == "B":
        ahead = f"; it is better by at least {amount(ahead_by, shares)}" if ahead_by > 0 else ""
        limit = f"at most {amount(worst, shares)} worse" if worst > 0 else "not worse"
        return (
            f"B is as good as A, within the allowed {allowed}: on other examples like these {n:,} it would be {limit}"
            f" (95 % confidence){ahead}."
        )
    if result.grade == "D":
        by = amount(least, shares)
        return f"B is worse than A by more than the allowed {allowed}: by at least {by} (95 % confidence)."
    return (
        f"These {n:,} examples do not decide: B may be up to {amount(worst, shares)} worse than A (allowed:"
        f" {allowed}); that it is worse by more than that is not shown either."
    )


def amount(value: float, shares: bool) -> str:
    """A difference without its sign: `2.5 points` of 0/1 scores, else with three digits."""
    if shares:
        points = f"{100 * abs(value):.2f}".rstrip("0").rstrip(".")
        return "1 point" if points == "1" else f"{points} points"
    return f"{abs(value):.3g}"
