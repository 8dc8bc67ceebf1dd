"""Is an adapter's scale the probe's? Rank and scale are never changed together, or a verdict is about both."""

from __future__ import annotations

import math
from pathlib import Path

from gradience.adapters.config import read_config
from gradience.adapters.keys import config_name
from gradience.bench.verdict.evidence import SCALE_CHANGED
from gradience.plan.modules import Ranks

CONFIG = "adapter_config.json"


class ScaleChanged(Exception):
    """An adapter whose α/r is not the probe's."""


def hold_scale(probe: Path, adapter: Path, ranks: Ranks) -> None:
    """Check that every module is scaled as in the probe, by the two configs as PEFT reads them.

    ranks: of the adapter; modules at rank 0 have none. Raises ScaleChanged, which names the first module that differs.
    """
    before, after = read_config(probe / CONFIG), read_config(adapter / CONFIG)
    for module, rank in ranks.items():
        name = config_name(module)
        full = before.rank_of(name)
        if not rank or full is None:
            continue
        was, is_now = before.scale(before.alpha_of(name), full), after.scale(after.alpha_of(name), rank)
        if was is not None and (is_now is None or not math.isclose(was, is_now, rel_tol=1e-6)):
            raise ScaleChanged(f"{SCALE_CHANGED}: {module} has {is_now}, and the probe has {was}")
