"""Check errors by their code, which is stable; the message may change."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gradience.errors import GradienceError


@contextmanager
def raises(
    kind: type[GradienceError] | tuple[type[GradienceError], ...], code: str, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[GradienceError]]:
    """`pytest.raises` of an error with this code."""
    with pytest.raises(kind, match=match) as caught:
        yield caught
    assert caught.value.code == code
