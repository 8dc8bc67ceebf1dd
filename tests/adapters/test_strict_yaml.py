"""YAML of strangers: what is read is what PyYAML reads, and what would hang, grow, run or fail is a message."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from raising import raises

from gradience.errors import InputError
from gradience.files.strict_yaml import MAX_NODES, loads


def bomb(levels, width=9):
    """Each line an anchor that holds the line before `width` times: `width` ** `levels` values in all."""
    lines = ["a0: &a0 [" + "x," * width + "]"]
    lines += [f"a{n}: &a{n} [" + f"*a{n - 1}," * width + "]" for n in range(1, levels)]
    return "\n".join(lines).encode()


REFUSED = {
    "billion laughs": (bomb(9), 9, "values"),
    "values": (b"- 1\n" * MAX_NODES, MAX_NODES, "values"),
    "depth by aliases": (
        b"\n".join([b"a0: &a0 [x]", *(b"a%d: &a%d [*a%d]" % (n, n, n - 1) for n in range(1, 60))]),
        60,
        "levels",
    ),
    "an anchor deep in itself": (b"b: &b {c: [{d: *b}]}", 1, "levels"),
    "no such anchor": (b"b: *b", 1, "undefined alias"),
    "no boolean": (b"a: 1\nb: !!bool foo", 2, "tag"),
    "no digits": (b"a: 0x_", 1, "no number"),
    "infinity": (b"a: .inf", 1, "finite"),
    "overflow": (b"a: 1e999", 1, "finite"),
    "base 60 without end": (b"a: 1" + b":10" * 100_000, 1, "characters"),
    "python": (b"a: 1\nb: !!python/object/apply:os.system ['true']", 2, "tag"),
    "a key twice": (b"a: 1\nb: 2\na: 3", 3, "twice"),
    "a list as key": (b"? [a]\n: b", 1, "key"),
    "a text as mapping": (b"a: !!map x", 1, "tag"),
    "half a character": (b'a: "\\ud800"', 1, "half"),
    "beyond the last character": (b'a: 1\nb: "\\UFFFFFFFF"', 2, "escape"),
    "a control character": (b"a: 1\nb: \x1b[2J", 2, "U\\+001B"),
    "not UTF-8": (b"a: 1\n\nb: \xff", 3, "UTF-8"),
    "not closed": (b"a: [1\n", 2, "expected"),
    "a tab": (b"a:\n\tb: 1", 2, "cannot start any token"),
    "two documents": (b"a: 1\n---\nb: 2", 2, "another document"),
}


@pytest.mark.parametrize(("text", "line", "what"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_read_is_named_with_its_line_and_what_to_do(text, line, what):
    with raises(InputError, "bad-yaml", rf"^run\.yaml, line {line}: .*{what}") as refusal:
        loads(text, "run.yaml")
    assert refusal.value.hint
    assert len(str(refusal.value)) < 400


READ = {
    b"a: 1e-4": {"a": 0.0001},
    b"a: 1000000000000000019884624838656": {"a": 1000000000000000019884624838656},
    b"a: yes\nb: off": {"a": True, "b": False},
    b"a: 2026-11-02": {"a": "2026-11-02"},
    b"a: =": {"a": "="},
    b"a: &a {b: 1}\nc: {<<: *a, d: *a}": {"a": {"b": 1}, "c": {"b": 1, "d": {"b": 1}}},
    b"\xef\xbb\xbfa: 1": {"a": 1},
    b"": None,
}


@pytest.mark.parametrize(("text", "value"), READ.items(), ids=[text.decode() for text in READ])
def test_what_a_config_may_say(text, value):
    assert loads(text, "run.yaml") == value


def size(value):
    """Values in `value` as it stands, shared ones counted each time; keys are values as well."""
    if isinstance(value, dict):
        return 1 + sum(1 + size(item) for item in value.values())
    return 1 + sum(map(size, value)) if isinstance(value, list) else 1


@pytest.mark.parametrize("width", [2, 5, 9])
@pytest.mark.parametrize("levels", range(2, 9))
def test_the_limit_is_on_what_a_file_becomes(levels, width):
    text = bomb(levels, width)
    if size(yaml.safe_load(text)) <= MAX_NODES if width**levels < 10**6 else False:
        assert loads(text, "run.yaml") == yaml.safe_load(text)
    else:
        with pytest.raises(InputError):
            loads(text, "run.yaml")


PIECES = [
    *"ab:-\n []{},|>'\"#%@\té😀10._~\u2028",
    *(": ", "- ", "\n  ", "&a ", "*a", "<<", "? ", "\\x", "---", "...", "0x", "e9", "yes", ".inf"),
    *("!!int ", "!!bool ", "!!float ", "!!str ", "!x "),
]


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_a_text_is_refused_or_read_as_pyyaml_reads_it(pieces):
    text = "".join(pieces)
    try:
        value = loads(text.encode(), "run.yaml")
    except InputError:
        return
    assert same(value, yaml.safe_load(text))


def same(ours, theirs):
    """Equal, but for what YAML 1.2 reads as a number and PyYAML as a text: 1e9."""
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and same(list(ours.values()), list(theirs.values()))
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float):
        return math.isfinite(ours) and ours == float(str(theirs).replace("_", ""))
    return ours == theirs and type(ours) is type(theirs)
