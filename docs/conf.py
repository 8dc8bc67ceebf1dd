"""The site that `make site` builds from these pages; why by Sphinx: decisions/009-docs-site.md.

The pages are the files that a forge shows, so next to nothing in them is Sphinx's own. What a site needs beyond them is
made here: navigation, from the links of index.md, in their order, a group for each heading, a folder for all its pages;
and docstrings as autodoc reads them. A warning is an error: a page that index.md does not name, a link or an anchor
that leads nowhere.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from pydantic import BaseModel
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.autodoc import mock

import gradience

project = "Gradience"
author = copyright = "The Gradience maintainers"
version = release = gradience.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4  # a link to a heading is spelled as on a forge

html_theme = "furo"
html_title = f"Gradience {release}"
html_copy_source = False
html_show_search_summary = False  # a summary is fetched, which a browser refuses a page from disk

# What extends their classes is read here, never run.
with mock(["accelerate", "peft", "scipy", "torch", "transformers"]):
    for public in gradience.__all__:
        value = getattr(gradience, public)
        if hasattr(value, "__sphinx_mock__"):  # a substitute takes any arguments: say which ones ours takes
            of_init = inspect.signature(value.__init__)
            value.__signature__ = of_init.replace(parameters=list(of_init.parameters.values())[1:])

HEADING = re.compile(r"^## (.+)$", flags=re.MULTILINE)
PARAMETER = re.compile(r"(\w+)(?:: +|  +)(\S.*)")
PAGE_LINK = re.compile(r"\]\(([\w/.-]+)\.(?:md|ipynb)\)|\]\((decisions)\)")


class NotebookParser(MystParser):  # type: ignore[misc]
    """A notebook as a page: its text and its code, and itself to download. It is run by the tests, not for the site."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        cells = json.loads(inputstring)["cells"]
        texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
        pieces = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in texts]
        name = Path(document["source"]).name
        super().parse("\n\n".join([*pieces, f"{{download}}`This page as a notebook <{name}>`"]), document)


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append to index.md the tree of pages that its links are: a group for what stands under each heading."""
    if docname != "index":
        return
    first, *rest = HEADING.split(source[0])
    groups = [("", first), *zip(rest[::2], rest[1::2], strict=True)]
    for caption, text in groups:
        title = f":caption: {caption}\n" if caption else ""
        pages = "\n".join(dict.fromkeys(page or f"{folder}/*" for page, folder in PAGE_LINK.findall(text)))
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n{title}\n{pages}\n```\n"


def keep_what_lies_outside(app: Sphinx, doctree: nodes.document) -> None:
    """A link to a file of the repository that is no page becomes a download; one to a folder, its text."""
    for link in [x for x in doctree.findall(addnodes.pending_xref) if x.get("reftype") == "myst"]:
        here = Path(app.env.doc2path(link["refdoc"])).parent
        target = here / (link["reftarget"] + (".md" if link["refdomain"] == "doc" else ""))
        if target.is_dir():
            link.replace_self(link.children)
        elif target.is_file() and not target.resolve().is_relative_to(app.srcdir):
            where = {"reftarget": f"/{os.path.relpath(target, app.srcdir)}", "refdoc": link["refdoc"]}
            link.replace_self(addnodes.download_reference("", "", *link.children, **where))


def markdown_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """`code`, and a parameter with what it is (`name: …` or `name   …`), as autodoc reads them."""
    parameters = inspect.signature(obj).parameters if what in ("class", "function", "method") else ()
    describing = False
    for n, line in enumerate(lines):
        described = PARAMETER.fullmatch(line)
        if described and described[1] in parameters:
            line, describing = f":param {described[1]}: {described[2]}", True
        elif describing and line:
            line = f"    {line.lstrip()}"  # the description goes on
        else:
            describing = False
        lines[n] = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)


def only_what_can_be_called(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out the keys of reports (each has a page of its own) and what pydantic adds."""
    if what != "class":
        return None
    return skip or not (callable(obj) or isinstance(obj, property)) or name.startswith("model_")


def no_constructor_of_a_report(
    app: Sphinx, what: str, name: str, obj: Any, *_: Any
) -> tuple[str, str] | None:
    """Reports are made by functions: a constructor of forty keys tells nothing."""
    return ("", "") if isinstance(obj, type) and issubclass(obj, BaseModel) else None


def setup(app: Sphinx) -> None:
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    app.connect("source-read", add_navigation)
    app.connect("doctree-read", keep_what_lies_outside, priority=400)  # before downloads are collected
    app.connect("autodoc-process-docstring", markdown_docstring)
    app.connect("autodoc-skip-member", only_what_can_be_called)
    app.connect("autodoc-process-signature", no_constructor_of_a_report)
