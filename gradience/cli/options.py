"""Options that several verbs read."""

from __future__ import annotations

from gradience.errors import UsageError


def allowed_ranks_of(text: str | None) -> tuple[int, ...] | None:
    """`--allowed-ranks 4,8,16` as ranks; None where it was not given. Raises UsageError (code bad-grid)."""
    if text is None:
        return None
    from gradience.ranks import parse_grid

    try:
        return parse_grid(text)
    except ValueError as error:
        raise UsageError(
            f"--allowed-ranks: {error}", code="bad-grid", hint="--allowed-ranks 4,8,16"
        ) from None
