"""YAML from untrusted files: PyYAML expands aliases without limit and builds any tagged object; this reader does not.

Only values that JSON can hold are read: mappings with plain keys, lists, texts, numbers, booleans, null.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, ScalarNode

from gradience.errors import InputError
from gradience.files import strict_json
from gradience.reading import read_file

MAX_NODES = 20_000
"""Values in a file, each alias counted with all that its anchor holds. Configurations have a few hundred."""
SHORTEN = "name the right file"
QUOTE = "put literal text into quotes"
FINITE = "write the number that is meant; leave the line out for the default"


class _Loader(yaml.SafeLoader):
    """SafeLoader with bounds, one meaning for each key, and 1e-4 as a number, as YAML 1.2 has it."""

    composed = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose as SafeLoader does: no tags, and of a longer text no more than is read."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:  # one that asks for an object of Python, or any other
            raise _refused(
                event, f"the tag {event.tag[:80]!r} is not read", "write plain values, without `!`"
            )
        self.composed += 1
        if self.composed > MAX_NODES:
            raise _refused(event, f"more than {MAX_NODES:,} values", SHORTEN)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: Any) -> None:
        """Merge as SafeLoader does, and count what was merged."""
        super().flatten_mapping(node)
        self.composed += len(node.value)
        if self.composed > MAX_NODES:
            raise _refused(node, f"more than {MAX_NODES:,} values", SHORTEN)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Construct as SafeLoader does, but refuse a duplicate key, or a key that is not a scalar."""
        keys_so_far: set[str] = set()
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if not isinstance(key, ScalarNode):
                raise _refused(key, "a key that is a list or a mapping", "a key is a word: `key: value`")
            if key.value in keys_so_far and key.value != "<<":
                raise _refused(key, f"the key {key.value[:80]!r} occurs twice", "keep one of them")
            keys_so_far.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_str(self, node: Any) -> str:
        """Return a text without half characters (lone surrogates), which no file can hold."""
        text = str(self.construct_scalar(node))
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise _refused(node, "a string contains half of a character (a lone surrogate)", QUOTE) from None
        return text

    def construct_yaml_int(self, node: Any) -> int:
        """Return an integer of at most MAX_DIGITS characters."""
        value: int = self._number(node, super().construct_yaml_int)
        return value

    def construct_yaml_float(self, node: Any) -> float:
        """Return a finite number."""
        value: float = self._number(node, super().construct_yaml_float)
        if not math.isfinite(value):
            raise _refused(node, f"{node.value} is not a finite number", FINITE)
        return value

    def _number(self, node: Any, construct: Any) -> Any:
        if len(node.value) > strict_json.MAX_DIGITS:
            raise _refused(node, f"a number of {len(node.value):,} characters", QUOTE)
        try:
            return construct(node)
        except ValueError:
            raise _refused(node, f"{node.value!r} is no number", QUOTE) from None


_TAG = "tag:yaml.org,2002:"
for _kind in ("str", "timestamp", "value"):  # dates and `=` stay text
    _Loader.add_constructor(_TAG + _kind, _Loader.construct_yaml_str)
_Loader.add_constructor(_TAG + "int", _Loader.construct_yaml_int)
_Loader.add_constructor(_TAG + "float", _Loader.construct_yaml_float)
_Loader.add_implicit_resolver(
    _TAG + "float", re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)$"), list("-+0123456789.")
)


def loads(text: bytes, path: str | Path) -> Any:
    """Read the value in a YAML text, from the place that `path` names. Raises InputError (bad-yaml)."""
    try:
        loader = _Loader(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _error(path, text.count(b"\n", 0, error.start), "not UTF-8", "save it again as UTF-8") from None
    except yaml.reader.ReaderError as error:
        problem = f"the character U+{error.character:04X}, which YAML does not allow"
        line = text.decode("utf-8").count("\n", 0, error.position)
        raise _error(
            path, line, problem, "remove it, or write it as an escape between double quotes"
        ) from None
    try:
        value = loader.get_single_data()
        if excess := strict_json.excess_of(value, MAX_NODES):  # aliases, each with what its anchor holds
            raise yaml.MarkedYAMLError(problem=f"it has {excess}, aliases written out", note=SHORTEN)
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = None if error.note else error.context
        problem = ", ".join(filter(None, [error.problem or error.context, context]))
        raise _error(path, mark.line if mark else loader.line, problem, error.note) from None
    except RecursionError:
        raise _error(path, loader.line, "nested too deeply", SHORTEN) from None
    except (ValueError, OverflowError):  # of chr(), for an escape beyond the last character
        raise _error(path, loader.line, "an escape that names no character", None) from None
    finally:
        loader.dispose()


def _refused(at: Any, problem: str, hint: str) -> yaml.MarkedYAMLError:
    """Return the error for the text at an event or a node."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark, note=hint)


def _error(path: str | Path, line: int, problem: str, hint: str | None) -> InputError:
    """The error for a line, counted from 0."""
    return InputError(
        f"{path}, line {line + 1}: cannot be read as YAML: {problem[:200]}",
        code="bad-yaml",
        hint=hint
        or "correct that line: indent with spaces, and put texts with signs such as `:` or `*` into quotes",
    )


# ---------------------------------------------------------------- configuration files

MAX_BYTES = 1_000_000
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the mapping in a .json, .yaml or .yml file.

    Raises InputError: config-pickle, bad-json, bad-yaml, config-not-a-mapping, and what `read_file` raises.
    """
    if path.suffix.lower() in PICKLES:
        raise config_pickle(path)
    text = read_file(path, MAX_BYTES)
    is_json = path.suffix.lower() == ".json"
    value = strict_json.loads(text, path, "configuration") if is_json else loads(text, path)
    if not isinstance(value, Mapping):
        hint = "write `key: value` lines"
        raise InputError(f"{path}: contains no settings", code="config-not-a-mapping", hint=hint)
    return {str(key): item for key, item in value.items()}


def config_pickle(path: Path) -> InputError:
    """Return the error for a configuration that is a pickle."""
    return InputError(
        f"{path}: a pickle, not opened because that could run code",
        code="config-pickle",
        hint='write the settings as JSON: open("training_args.json", "w").write(args.to_json_string())',
    )
