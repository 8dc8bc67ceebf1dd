"""What real vLLM holds for the slots of its adapters, against what `gradience fleet` says of a slot, on a plain CPU.

    PYTHONPATH=tests python -m conformance.serving.slots --python .venv-vllm/bin/python

Serves SmolLM2-135M (from the package index) with adapters of rank 8, 16 and 32, on all linear modules and on q and v
alone, for each max_loras and max_lora_rank in a process of its own, and sums the bytes of the stacked factors of all
layers. Writes docs/conformance/vllm_slots.json and a table in docs/results/runtimes.md. Exit code 1 where the linear
layers hold other bytes than `gradience fleet` says of adapters on all of them. (`make conformance-vllm`)
"""

import datetime
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from conformance.serving import model
from conformance.serving.record import renew
from conformance.serving.served import asked_of, parser_of, say
from gradience import audit_fleet

ROOT = Path(__file__).parents[3]
SLOTS = Path(__file__).with_name("slots_vllm.py")
RECORD = Path("docs/conformance/vllm_slots.json")
DOCUMENT = Path("docs/results/runtimes.md")
BASE = "SmolLM2-135M"
RANKS = (8, 16, 32)
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QV = ("q_proj", "v_proj")
BESIDE = ("VocabParallelEmbeddingWithLoRA", "LogitsProcessorWithLoRA")
"""vLLM's classes for the embedding and the head, where it makes room too."""


class Setting(NamedTuple):
    """How vLLM is started. targets: its `lora_target_modules`, empty for all it knows. modules: of the adapters."""

    max_loras: int
    max_lora_rank: int
    targets: tuple[str, ...] = ()
    modules: tuple[str, ...] = ALL


SETTINGS = (
    *(Setting(loras, rank) for loras in (1, 2, 4) for rank in RANKS),
    Setting(2, 16, ALL, ALL),
    Setting(2, 16, (), QV),
    Setting(2, 16, QV, QV),
)


def main() -> int:
    """Measure every setting, and write the record and the table."""
    given = parser_of(__doc__).parse_args()
    base = model.smollm2_base()
    with tempfile.TemporaryDirectory(prefix="gradience-slots-") as name:
        folders = {modules: list(adapters(base, Path(name), modules)) for modules in (ALL, QV)}
        rows = [
            measured(given.python, base.folder, Path(name), setting, folders[setting.modules])
            for setting in SETTINGS
        ]
    versions = {row.pop("vllm") for row in rows}
    content = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "vllm": versions.pop(),
        "base": BASE,
        "settings": rows,
    }
    (ROOT / RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    renew(ROOT / DOCUMENT, "slots", table(content))
    return int(any(row["linear"] != row["said"] for row in rows if row["modules"] == list(ALL)))


def adapters(base: model.Base, folder: Path, modules: Sequence[str]) -> Iterator[Path]:
    """Write an adapter of each rank on these modules, with random factors."""
    for rank in RANKS:
        target = folder / f"{len(modules)}-{rank}"
        model.make_adapter(base, target, rank, r=rank, lora_alpha=2 * rank, target_modules=list(modules))
        yield target


def measured(
    python: Path, base: Path, folder: Path, setting: Setting, folders: Sequence[Path]
) -> dict[str, Any]:
    """The bytes that vLLM holds with a setting, and those of as many slots by `gradience fleet`."""
    loaded = [path for rank, path in zip(RANKS, folders, strict=True) if rank <= setting.max_lora_rank]
    content = {
        "base": str(base),
        "max_loras": setting.max_loras,
        "max_lora_rank": setting.max_lora_rank,
        "target_modules": list(setting.targets) or None,
        "adapters": list(map(str, loaded)),
    }
    held = asked_of(python, SLOTS, folder, content)
    sizes = {layer["layer"]: layer["bytes"] for layer in held["layers"]}
    beside = sum(sizes[layer["layer"]] for layer in held["layers"] if layer["class"] in BESIDE)
    (group,) = audit_fleet(loaded, root=folder).bases
    row = {
        "max_loras": setting.max_loras,
        "max_lora_rank": setting.max_lora_rank,
        "lora_target_modules": list(setting.targets) or None,
        "modules": list(setting.modules),
        "adapters": len(loaded),
        "linear": sum(sizes.values()) - beside,
        "embedding_and_head": beside,
        "said": setting.max_loras * (group.slot_bytes or 0),
    }
    say(json.dumps(row))
    return row | {"vllm": held["vllm"]}


def table(content: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        f"vLLM {content['vllm']} on a CPU, {content['base']} in bfloat16, {content['date']}; MB of all slots together:",
        "",
        "| adapters on | lora_target_modules | max_loras | max_lora_rank | predicted | linear layers"
        " | embedding and head |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in content["settings"]:
        sizes = (f"{row[key] / 1e6:.2f}" for key in ("said", "linear", "embedding_and_head"))
        cells = (named(row["modules"]), named(row["lora_target_modules"] or []))
        lines.append(
            f"| {' | '.join(cells)} | {row['max_loras']} | {row['max_lora_rank']} | {' | '.join(sizes)} |"
        )
    return "\n".join(lines)


def named(modules: Sequence[str]) -> str:
    """A few words for a list of modules."""
    return {len(ALL): "all linear modules", 0: "–"}.get(len(modules), ", ".join(modules))


if __name__ == "__main__":
    sys.exit(main())
