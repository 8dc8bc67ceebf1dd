"""Numbers for people: three or four digits, and never more precise than the value is."""

import math
from collections.abc import Iterable, Mapping

from gradience.words import noun

DIGITS = 3
"""Significant digits of a measure: bf16 storage changes a stable rank by a relative error of up to 1e-4."""
MISSING = "–"


def sig(value: float | None, digits: int = DIGITS) -> str:
    """Return `value` with `digits` significant digits; outside 0.001 … 99,999 as a power of ten.

    1.8734 -> 1.87, 0.020311 -> 0.0203, 1234.5 -> 1230, 0.00018 -> 1.80e-4, None -> a dash.
    """
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")  # 9.996 is 10.0, not 10.00
    exponent = math.floor(math.log10(abs(value)))
    if not -3 <= exponent < 5:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def trimmed(value: float | None) -> str:
    """Return a number without trailing zeros: 23.7, 16, 0.25, never 16.0; 1023.5, because a rank is not rounded."""
    if value is None:
        return MISSING
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}".removesuffix(".0")


def plain(value: float | None) -> str:
    """Return a value of unknown kind: whole numbers unchanged (20, 1,500), anything else with three digits."""
    if value is None or not float(value).is_integer() or abs(value) >= 1e6:
        return sig(value)
    return count(int(value))


def digits_for(relative_error: float) -> int:
    """Return the digits that are reliable at a relative error: 7e-5 -> 3, 2e-3 -> 2; at least 1, at most DIGITS."""
    if relative_error <= 0:
        return DIGITS
    return max(1, min(DIGITS, math.floor(-math.log10(relative_error))))


def count(number: int) -> str:
    """9,216; 147,456; 167.8 M; 7.2 B."""
    if abs(number) < 1_000_000:
        return f"{number:,}"
    return _scaled(number, ("", "k", "M", "B", "T"))


def size(number: int) -> str:
    """Return bytes in powers of 1000: 812 B, 298.5 kB, 335.5 MB."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def _scaled(number: float, units: tuple[str, ...]) -> str:
    power = 0
    # 999.96 would be printed as 1000.0 in the smaller unit.
    while abs(number) >= 999.95 and power < len(units) - 1:
        number /= 1000
        power += 1
    return f"{number:.0f} {units[0]}".rstrip() if power == 0 else f"{number:.1f} {units[power]}"


def memory_parts(parts: Mapping[str, int], about: str = "about") -> str:
    """Return `about 1.2 GB: 1.0 GB base, 200 MB one batch`; parts of 0 bytes are left out."""
    listed = ", ".join(f"{size(part)} {name}" for name, part in parts.items() if part)
    return f"{about} {size(sum(parts.values()))}: {listed}"


def percent(fraction: float | None) -> str:
    """Return 75.0 %, 4.2 %, 0.03 %: two digits, three above 10 %; a share below 1 is never shown as 100 %."""
    if fraction is None:
        return MISSING
    value = 100 * fraction
    if -1e-9 < value <= 0:  # zero, up to rounding
        return "0 %"
    if 99.95 <= value < 100 - 1e-9:
        return "over 99.9 %"
    if abs(value) >= 99.95:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if abs(value) >= 1 else f"{sig(value, 2)} %"


def chance(value: float) -> str:
    """Return a probability in whole per cent, never as certain: 85 %, over 99 %, under 1 %."""
    if value > 0.99:
        return "over 99 %"
    return f"{100 * value:.0f} %" if value >= 0.01 else "under 1 %"


def probability(value: float) -> str:
    """Return `p = 0.41`, two digits, or `p ≤ 0.0001`."""
    return "p ≤ 0.0001" if value <= 1e-4 else f"p = {sig(value, 2)}"


def in_points(difference: float) -> str:
    """Return a difference of shares in percentage points, two digits: 0.025 -> 2.5, 0.0119 -> 1.2."""
    return sig(100 * difference, 2)


def round_up(number: int) -> int:
    """Round up to two digits: 1,063 to 1,100.

    >>> round_up(1063), round_up(78), round_up(2401)
    (1100, 78, 2500)
    """
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit


def number_range(values: Iterable[int | float]) -> str:
    """Return `16` if all are equal, otherwise `4–64`."""
    ordered = sorted(set(values))
    if not ordered:
        return MISSING
    low, high = trimmed(ordered[0]), trimmed(ordered[-1])
    return low if low == high else f"{low}–{high}"


def plural(number: int, singular: str, many: str | None = None) -> str:
    """Return `1 module`, `24 modules`, `1,000 modules`, with the number as `count` shows it."""
    return f"{count(number)} {noun(number, singular, many)}"


def rough_duration(seconds: float) -> str:
    """Return an estimated time in a readable unit, with two digits: `1.5 h`, `14 min`, `40 s`.

    >>> rough_duration(5_400), rough_duration(840), rough_duration(40), rough_duration(0.2)
    ('1.5 h', '14 min', '40 s', 'less than 1 s')
    """
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.2g} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def signed(value: float) -> str:
    """Return +0.31, −0.02."""
    return f"{'−' if value < 0 else '+'}{sig(abs(value))}"


def max_lora_rank(rank: int | None) -> str:
    """Return vLLM's permitted max_lora_rank in words; None means above the largest."""
    return "over 512" if rank is None else str(rank)
