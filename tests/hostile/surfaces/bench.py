"""Bench configs and the results of seeds: what a stranger's run folder or YAML file may say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from gradience.bench.config.load import load_config
from gradience.bench.config.shipped import find_config
from hostile import samples
from hostile.surface import Input, Surface

VALUES = (
    3,
    -1,
    45_000,
    10**30,
    1e-320,
    "../../x",
    "http://127.0.0.1:9/x",
    "(a+)+$",
    [3],
    {"a": 3},
    [],
    None,
    True,
)
CONFIG = "in/config.yaml"
DRY_RUN = f"bench run --config {CONFIG} --output out/run --dry-run"
SHARES = ("0", "0.5", "0.7", "1", "2", "-1", "1e-320", "1e400")


def read() -> None:
    sys.stdout.write(str(load_config(CONFIG).model_dump(mode="json"))[:200] + "\n")


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, item in value.items():
        yield (*path, key)
        if isinstance(item, dict):
            yield from places(item, (*path, key))


def changed(config: dict[str, Any], path: tuple[str, ...], value: Any) -> bytes:
    copy = json.loads(json.dumps(config))
    holder = copy
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    return yaml.safe_dump(copy).encode()


def with_policy(bench: Any, tolerance: str, rate: str) -> bytes:
    """A seed's result under another policy, wherever it says which."""
    holder = json.loads(bench.to_json())
    holder["policy"] = {"tolerance": tolerance, "floor": tolerance, "pass_rate": rate}
    return json.dumps(holder).encode()


def surface(_folder: Path) -> Surface:
    config = yaml.safe_load(Path(find_config("minilm_reviews_demo")).read_text(encoding="utf-8"))
    config["compression"]["controls"] = ["rewrite_control"]
    config["runtime"]["threads"] = 1  # a forked child has none of its parent's threads
    moved = config["compression"] | {"variants": ["per_layer", "per_layer_shuffled"], "controls": 3}
    values = [(path, value) for path in places(config) for value in VALUES]
    configs = [
        (f"{'.'.join(path)} = {json.dumps(value)}", changed(config, path, value)) for path, value in values
    ]
    configs.append(
        ("controls = 3 beside a control among the variants", changed(config, ("compression",), moved))
    )
    seeds = samples.seeds()
    runs = [
        (
            f"tolerance {share}, rate {rate}",
            {f"in/run/seed_{one.seed}/bench.json": with_policy(one, share, rate) for one in seeds},
        )
        for share in SHARES
        for rate in ("0.67", "0", "1")
    ]
    rank = config["lora"] | {"probe_r": 45_000}
    return Surface(
        what="Bench configs and results",
        good=[
            Input("config", read, {CONFIG: yaml.safe_dump(config).encode()}, codes={0}),
            Input("dry run", DRY_RUN, {CONFIG: yaml.safe_dump(config).encode()}, codes={0}),
            Input("aggregate", "bench aggregate in/run --output out/all", runs[0][1], codes={0, 1, 4, 8}),
        ],
        inputs=[
            *(Input(name, read, {CONFIG: content}, codes={0, 3}) for name, content in configs),
            *(
                Input(name, "bench aggregate in/run --output out/all", files, codes={0, 1, 3, 4, 8})
                for name, files in runs
            ),
            Input(
                "probe_r = 45000, dry run", DRY_RUN, {CONFIG: changed(config, ("lora",), rank)}, codes={0, 3}
            ),
        ],
    )
