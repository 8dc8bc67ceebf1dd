"""docs/images/architecture.svg: the layers of pyproject.toml, which import-linter holds, as a drawing."""

from html import escape
from pathlib import Path
from typing import NamedTuple

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
WIDTH, ROW, BOX, GAP, CAPTION = 720, 36, 26, 12, 224
LETTER = 7.9


class Layer(NamedTuple):
    """Packages that do not import each other, and the heading of the group that begins with them."""

    heading: str
    packages: list[str]


def layers_of(pyproject: str) -> list[Layer]:
    """Return the layers from the top down; a line of comment above a layer is its heading."""
    block = (
        pyproject.partition('containers = ["gradience"]')[2]
        .partition("\nlayers = [\n")[2]
        .partition("\n]")[0]
    )
    layers, heading = [], ""
    for line in block.splitlines():
        text = line.strip()
        if text.startswith("#"):
            heading = text.removeprefix("# ")
            continue
        layers.append(Layer(heading, text.split('"')[1].split(" : ")))
        heading = ""
    return layers


def architecture_drawing() -> str:
    """Return the SVG: a row for each layer, a line above each group, and the arrow that imports follow."""
    layers = layers_of(PYPROJECT.read_text(encoding="utf-8"))
    height = ROW * len(layers) + 2 * GAP
    parts = [part for n, layer in enumerate(layers) for part in _row(layer, GAP + n * ROW)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-size="13"'
            ' font-family="ui-monospace, Menlo, Consolas, monospace" role="img">',
            "<title>The packages of gradience: each may import those below it</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *parts,
            f'<path d="M{WIDTH - 20} {GAP + 8} V{height - GAP - 8} m-5 -9 l5 9 l5 -9" fill="none" stroke="#57606a"/>',
            f'<text x="{WIDTH - 32}" y="{height / 2}" fill="#57606a" text-anchor="middle"'
            f' transform="rotate(-90 {WIDTH - 32} {height / 2})">imports</text>',
            "</svg>\n",
        ]
    )


def _row(layer: Layer, top: float) -> list[str]:
    parts, left = [], float(CAPTION)
    middle = top + ROW / 2 + 4
    if layer.heading:
        parts.append(f'<path d="M{GAP} {top} H{WIDTH - 52}" stroke="#d0d7de"/>')
        parts.append(
            f'<text x="{GAP}" y="{middle}" fill="#57606a" font-size="11">{escape(layer.heading)}</text>'
        )
    for package in layer.packages:
        width = len(package) * LETTER + 2 * GAP
        box = f'x="{left:.1f}" y="{top + (ROW - BOX) / 2}" width="{width:.1f}" height="{BOX}" rx="5"'
        parts.append(f'<rect {box} fill="#ddf4ff" stroke="#54aeff"/>')
        parts.append(
            f'<text class="package" x="{left + GAP:.1f}" y="{middle}" fill="#1f2328">{escape(package)}</text>'
        )
        left += width + GAP
    return parts
