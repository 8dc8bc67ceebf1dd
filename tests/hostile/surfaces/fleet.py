"""Rows, names and links that `fleet` and `compress fleet.jsonl` meet."""

import json
from dataclasses import dataclass
from pathlib import Path

import fleet_sample
from factory import config, modules, safetensors

from hostile.surface import Input, Surface, sparse

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
ADAPTER = {WEIGHTS: safetensors(modules()), CONFIG: json.dumps(config()).encode()}
NAMES = {
    "color": "\x1b[31mred\x1b[2J",
    "lines": "a\nerror: forged",
    "right to left": "\u202egpj",
    "formula": "=1+1",
    "bytes": "\udcff\udcfe",
    "markup": "<script>alert(1)|`x`",
    "long": "x" * 250,
}


def at(folder: str) -> dict[str, bytes]:
    """An adapter there."""
    return {f"{folder}/{name}": content for name, content in ADAPTER.items()}


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link in the place of a file or a folder."""

    to: str

    def __call__(self, place: Path) -> None:
        place.symlink_to(self.to)


def rows(**changes: object) -> bytes:
    row = json.loads(fleet_sample.fleet_row().to_json(indent=None))
    return (json.dumps(row | {"path": "in/zoo/a", "rank": 8} | changes) + "\n").encode()


def surface(_folder: Path) -> Surface:
    zoo = at("in/zoo/a") | at("in/zoo/b")
    paths = {"up": "../../x", "absolute": "/etc/x", "NUL": "a\0b", "long": "a/" * 3000 + "b", "nothing": ""}
    batch, again = (
        "compress in/fleet.jsonl --rank 2 -o out/small",
        "fleet in/zoo -o out/fleet.jsonl",
    )
    linked = {"folder": "out/small/in", "adapter": "out/small/in/zoo/a"}
    journals = {
        "notes": b"my notes\n",
        "JSON": b"{\n}\n",
        "a link": Link("../in/zoo/a/adapter_config.json"),
        "sparse, 900 MB": sparse(900_000_000),
    }
    circles = {"in/zoo/x": Link("y"), "in/zoo/y": Link("x"), "in/zoo/z": Link(".")}
    inputs = [
        *(
            (f"a name: {name}", f"fleet in/zoo -o out/fleet.jsonl {flag}", at(f"in/zoo/{text}"), {0})
            for name, text in NAMES.items()
            for flag in ("", "--json")
        ),
        *(
            (f"a path: {name}", batch, {"in/fleet.jsonl": rows(path=path)}, {3, 4})
            for name, path in paths.items()
        ),
        *(
            (f"a link in the output: {name}", f"{batch} --force", {place: Link("../../../../in/zoo")}, {4})
            for name, place in linked.items()
        ),
        *((f"a journal: {name}", again, {"out/fleet.jsonl.part": it}, {3}) for name, it in journals.items()),
        *(
            (f"rows: {name}", verb, {place: it}, {3})
            for name, it in {
                "sparse, 900 MB": sparse(900_000_000),
                "a line of 100 MB": b'{"schema":"gradience.fleet_row/2","path":"' + b"a" * 100_000_000,
                "8 million empty objects": b"{}\n" * 8_000_000,
            }.items()
            for verb, place in ((batch, "in/fleet.jsonl"), (again, "out/fleet.jsonl"))
        ),
        ("rows: 30 million empty lines", again, {"out/fleet.jsonl": b"\n" * 30_000_000}, {0, 3}),
        ("links in a circle", "fleet in/zoo --recursive", circles, {0}),
    ]
    known = zoo | {"in/fleet.jsonl": rows()}
    return Surface(
        what="fleet",
        good=[
            Input("a fleet", "fleet in/zoo -o out/fleet.jsonl", zoo, codes={0}),
            Input("a batch", batch, known, codes={4}),  # the row is outdated
        ],
        inputs=[Input(name, verb, known | files, codes=codes) for name, verb, files, codes in inputs],
    )
