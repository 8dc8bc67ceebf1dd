"""Generated text inside hand-written Markdown: everything between a pair of markers is replaced, or only compared."""

import argparse
import re


def replace_block(text: str, name: str, content: str) -> str:
    """`text` with the text between `<!-- NAME -->` and `<!-- /NAME -->` replaced by `content`.

    Raises ValueError unless there is exactly one such pair.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", flags=re.DOTALL)
    block = f"{start}\n{content.strip()}\n{end}"
    replaced, count = pattern.subn(lambda _: block, text)
    if count != 1:
        raise ValueError(f"expected one block {start} … {end}, found {count}")
    return replaced


def only_checking(doc: str | None) -> bool:
    """Whether the command line asks to compare (`--check`) and not to write. doc: the script's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when text is out of date")
    return bool(parser.parse_args().check)
