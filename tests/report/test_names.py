"""Names from strangers: the escapers, and the LoraConfig to copy, which is no block."""

import html
import re
from html.parser import HTMLParser

import pytest
from audit_sample import power_law, report, row
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from gradience.reports.audit import lora_config_source
from gradience.reports.base.names import (
    MAX_NAME,
    display_name,
    display_sentence,
    fit,
    html_name,
    html_text,
    markdown_name,
    markdown_text,
)
from gradience.reports.base.numbers import (
    count,
    digits_for,
    number_range,
    percent,
    plural,
    sig,
    size,
    trimmed,
)
from gradience.words import printable

INVISIBLE = (
    "\0\a\b\t\n\v\f\r\x0e\x7f\x85\x9b\u2028\u2029\u202b\u202e\u2067\u200e\u200f\u061c\u200b\u200d\u2060\ufeff\u00ad\u00a0"
    "\u3000\u3164\uffa0\u2800\u034f\ufe0f\ue000\ufffe\ufff9\ufffb\U000e0041\U000e0100\U0001d173"
)
"""Controls, directions, blanks and characters that take no room."""
LONG, PYTHON, ATTRIBUTE = "x" * 5000, "'], r=1, x=__import__('os').system('id') #", '" onmouseover="alert(1)'
HOSTILE = {
    ascii(name)[1:30]: name
    for name in (
        *(f"q{character}proj" for character in INVISIBLE),
        # what steers a terminal, and what forges a line of one
        "\x1b[31mred", "a\x1b[2J\x1b[Hb", "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\", "\x1b]0;owned\x07",
        "\x1b[?2004h", "\x1bP+q544e\x1b\\", "\x9b31mred", "\x9d0;x\x9c", "harmless\rerror: gone", "a\nerror: forged",
        "a\r\nb", "[bold red]x[/]", "a[/]b", "[link=https://evil.example]x[/link]", ":skull:",
        # HTML
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", ATTRIBUTE, "' onload='x", "--><!-- x",
        "&lt;b&gt;&amp;", "</td></tr></table><h1>owned", "</style><style>*{display:none}",
        # Markdown
        "a|b|c", "a\\|b", "`code`", "a``b```c", "[x](https://evil.example)", "![x](https://evil.example/p.png)",
        "https://evil.example/x", "www.evil.example", "@everyone", "# owned", "**a** _b_ ~~c~~", "$\\href{x}{y}$",
        # what other programs take for more than text
        '=HYPERLINK("https://evil.example")', "%s %n {0} {self}", PYTHON, "C:\\new\\table", "(a+)+$",
        # sizes
        LONG, "\x1b" * 5000, "模型.层" * 60, "a" + "\u0301" * 300, "🧠" * 120,
    )
}  # fmt: skip
WORST = "\x1b[31m\x9b2J\u202e\r\nerror: forged|`[x](https://evil.example)</script>[/]$'\" #"
"""Something of each, for what a report writes itself: each renderer escapes in one place, and tests/hostile/ sweeps."""


def steering(text, allowed=""):
    """Characters of `text` that are not plainly visible."""
    return {c for c in text if not c.isprintable() and c not in allowed}


class Tags(HTMLParser):
    """Start and end tags, attributes, and the text between them; those of `open` are not closed."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))
        self.open += [tag] if tag not in ("br", "meta") else []

    def handle_endtag(self, tag):
        self.tags.append(tag)
        assert self.open.pop() == tag

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data):
        self.text += data


def parsed(markup):
    parser = Tags()
    parser.feed(markup)
    parser.close()
    return parser


@pytest.mark.parametrize("name", [WORST, PYTHON, LONG], ids=["worst", "python", "long"])
def test_the_lora_config_stays_inside_its_strings(name):
    rows = [row(each, power_law(8, 1.0), r=8, shape=(64, 32)) for each in (name, f"{name}.b")]
    facts = dict.fromkeys(("base_model", "task_type", "init"), name) | {
        "settings": {"exclude_modules": [name]}
    }
    audited = report(rows, path=name, adapter=facts)
    source = lora_config_source(audited)
    assert not steering(source, "\n")
    given = {}

    def LoraConfig(**arguments):
        given.update(arguments)

    code = compile(source.replace("from peft import LoraConfig\n", ""), "config", "exec")
    exec(code, {"LoraConfig": LoraConfig, "__builtins__": {}})
    assert given["target_modules"] == [name, f"{name}.b"]
    assert given["rank_pattern"] == audited.rank_pattern()
    assert (given["task_type"], given["exclude_modules"]) == (name, [name])


# ---------------------------------------------------------------- the escapers


def check_escapers(text):
    """Every sink takes any text: what it gives is visible, short, and holds no markup."""
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert len(shown) >= len(text)
    name = display_name(text)
    assert name.isprintable()
    assert len(name) <= MAX_NAME
    assert not text or name
    assert not re.search(r"[<>|`\n]|\]\(|!\[|://|www\.|~~|\$", markdown_text(text))
    assert not re.search(r"[<>|\n]", markdown_name(text))
    assert not re.search(r"[<>\"']", html_name(text).removeprefix("<bdi>").removesuffix("</bdi>"))
    assert html.unescape(html_text(text)) == display_sentence(text)
    assert html.unescape(markdown_text(text)).replace("\\_", "_") == display_sentence(text)


@pytest.mark.parametrize("name", [*HOSTILE.values(), WORST], ids=[*HOSTILE, "worst"])
def test_a_hostile_name_is_escaped_for_every_sink(name):
    check_escapers(name)


@given(st.text(max_size=600))
def test_any_text_is_escaped_for_every_sink(text):
    check_escapers(text)


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=MAX_NAME))
def test_an_ordinary_name_is_shown_as_it_is(name):
    assert display_name(name) == name


def test_a_long_name_keeps_both_ends_and_undecodable_bytes_are_written_out():
    shown = display_name("model." + "x" * 1000 + ".q_proj")
    assert shown.startswith("model.")
    assert shown.endswith(".q_proj")
    assert "…" in shown
    assert display_name("caf\udce9") == "caf\\udce9"


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z", "M"]), max_size=60), st.integers(2, 40)
)
def test_fit_never_exceeds_its_width_and_keeps_the_end(text, width):
    shown = fit(text, width)
    assert cell_len(shown) <= width
    assert shown == text or (shown.startswith("…") and text.endswith(shown[1:]))


# ---------------------------------------------------------------- Numbers for people


SHOWN = [
    (sig, [(1.8734, "1.87"), (1.8, "1.80"), (0.020311, "0.0203"), (9.996, "10.0"), (99.96, "100"), (1234.5, "1230"),
           (123456.0, "1.23e5"), (1.9e4, "19000"), (3e-31, "3.00e-31"), (1e19, "1.00e19"), (0.0, "0"), (None, "–"),
           (-1.5, "-1.50")]),
    (digits_for, [(0.0, 3), (3e-13, 3), (7e-5, 3), (9e-4, 3), (2e-3, 2), (1.5e-2, 1), (0.5, 1)]),
    (count, [(0, "0"), (9216, "9,216"), (999_999, "999,999"), (1_000_000, "1.0 M"), (167_772_160, "167.8 M"),
             (10**10, "10.0 B"), (7_241_732_096, "7.2 B"), (66_955_010, "67.0 M")]),
    (size, [(0, "0 B"), (812, "812 B"), (999, "999 B"), (298_520, "298.5 kB"), (999_960, "1.0 MB"),
            (335_544_320, "335.5 MB")]),
    (percent, [(0.0, "0 %"), (-4.4e-16, "0 %"), (0.875, "87.5 %"), (0.99949, "99.9 %"), (0.9996, "over 99.9 %"),
               (1 - 1e-6, "over 99.9 %"), (1 - 1e-15, "100 %"), (1.2, "120 %"), (1.0, "100 %"), (0.0284, "2.8 %"),
               (0.00012, "0.012 %"), (None, "–")]),
    (number_range, [((8,), "8"), ((8, 8), "8"), ((64, 4, 8), "4–64"), ((0.25, 2.0), "0.25–2"), ((), "–")]),
    (trimmed, [(16.0, "16"), (23.7, "23.7"), (40.5, "40.5"), (12.34567, "12.35"), (1023.5, "1023.5"),
               (65536.0, "65536"), (None, "–")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "value", "shown"), [(form, *case) for form, cases in SHOWN for case in cases]
)
def test_a_number_is_shown(form, value, shown):
    assert form(value) == shown


@given(st.floats(1e-12, 1e12), st.integers(1, 4))
def test_sig_is_right_to_the_digits_it_shows(value, digits):
    assert float(sig(value, digits)) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


def test_plural():
    assert [plural(number, "module") for number in (0, 1, 24)] == ["0 modules", "1 module", "24 modules"]
