"""On what records were made, and on what they would be made here: where device, threads or versions differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def numerics_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """`torch 2.13.0, here 2.14.0; threads 1, here 2`, in words; empty where there is none.

    there: fields of `ExamplesRun`. here: `Engine.numerics`.
    """
    before, now = (
        {"device": facts["device"], "threads": facts["threads"], **facts["versions"]}
        for facts in (there, here)
    )
    return "; ".join(
        f"{name} {before.get(name)}, here {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )
