"""python -m hostile.fuzz_one TARGET [options of libFuzzer] [folders]: one target under atheris."""

import sys

import atheris

with atheris.instrument_imports(include=["gradience", "yaml", "json"]):
    from hostile.fuzzed import feed


def main() -> None:
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda content: feed(name, content) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
