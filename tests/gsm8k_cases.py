"""Outputs that one could argue about, and what both filters of GSM8K find in them; questions of our own."""

CASES: dict[str, tuple[str, str | None, str | None]] = {
    # name: (output, strict, flexible)
    "marked": ("6 + 6 = 12\n#### 12", "12", "12"),
    "negative": ("#### -5", "-5", "-5"),
    "thousands": ("#### 1,080", "1,080", "1,080"),
    "point-behind": ("#### 18.", "18.", "18."),
    "decimals-are-kept": ("#### 42.0", "42.0", "42.0"),
    "currency-hides-it-from-strict": ("#### $18", None, "$18"),
    "marker-without-space": ("####18", None, "18"),
    "marker-without-number": ("#### none", None, None),
    "marker-and-minus-alone": ("#### -", None, None),
    "strict-takes-the-first-marker": ("#### 5\n#### 7", "5", "7"),
    "text-goes-on": ("#### 5 apples, 3 pears", "5", "3"),
    "no-marker": ("The answer is 12", None, "12"),
    "no-number": ("I do not know", None, None),
    "empty": ("", None, None),
    "apples": ("I have 3 apples, and", None, "3"),
    "percent": ("42%, so", None, "42"),
    "fraction": ("1/2", None, "2"),
    "decimals": ("42.0", None, "42.0"),
    "sentence-in-dollars": ("She pays $1,080.", None, "$1,080."),
    "cents": ("It costs 3.50 each", None, "3.50"),
    "difference-ends-in-a-sign": ("10-3", None, "-3"),
    "result-is-negative": ("3 - 5 = -2", None, "-2"),
    "unicode-minus-is-no-sign": ("−5", None, "5"),
    "exponent": ("1e5", None, "5"),
    "dots-look-like-a-number": ("It is 12...", None, "12..."),
    "dots-alone": ("Let me think..", None, ".."),
    "annotation": ("half of 48 is <<48/2=24>>24", None, "24"),
    "digits-of-another-script": ("٣ apples", None, None),
    "newline-behind": ("#### 12\n", "12", "12"),
}

QUESTIONS: list[dict[str, str]] = [
    {
        "question": f"A baker fills {trays} trays with {each} rolls and sells {sold}. How many rolls are left?",
        "answer": f"There are {trays}*{each}=<<{trays}*{each}={trays * each}>>{trays * each} rolls.\n"
        f"Then {trays * each}-{sold}=<<{trays * each}-{sold}={trays * each - sold}>>{trays * each - sold} are left."
        f"\n#### {trays * each - sold:,}",
    }
    for trays in (3, 7, 40, 60)
    for each in (6, 9, 30)
    for sold in (5, 12, 20)
]
