"""A LoRA of sd-scripts (kohya), or of a tool that writes its keys: read, and not written.

`<module>.lora_down.weight` (r, n[, k, k]), `.lora_up.weight` (m, r[, 1, 1]) and the number `.alpha`: s = alpha/r, and 1
without alpha. Dots of the module's path are underscores, which cannot be undone without the model.
Source: sd-scripts 48d368fa, networks/lora.py; the header's `ss_…` are its notes on the training.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.config import PeftConfig, is_alpha
from gradience.adapters.dtypes import decode
from gradience.adapters.inventory import DORA_REASON, SkippedTensor
from gradience.adapters.locate import INDEX, WEIGHTS, Location
from gradience.adapters.pairing import Place, add_pairs, shape_of
from gradience.adapters.sniffing import single, sniff
from gradience.adapters.tensors import TensorFile
from gradience.errors import InputError

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>down|up)\.weight")
ALPHA_REASON = "α of a module"


def is_kohya(path: Path) -> bool:
    """Whether the safetensors file at `path` holds `lora_down` and `lora_up`."""
    return path.name not in (WEIGHTS, INDEX) and any(map(_FACTOR.fullmatch, sniff(path).shapes))


def open_kohya(path: Path, adapter: str | None) -> Adapter:
    """Open the LoRA at `path`. Raises InputError: bad-alpha, and what `tensors` raises."""
    weights = single(path, adapter, lambda name: True, "files")
    with ExitStack() as stack:
        file = stack.enter_context(TensorFile.open(weights, root=weights.parent))
        opened = Adapter("kohya", Location(path, weights.parent, (weights,), None), None, [file], None)
        opened.unwritable = "dots of its modules' names are underscores, so no adapter of PEFT can name them"
        places = {
            name: Place(match["module"], "A" if match["side"] == "down" else "B")
            for name in file.entries
            if (match := _FACTOR.fullmatch(name))
        }
        alphas = alphas_of(file, {place.module for place in places.values()})
        tucker = {name.removesuffix(".lora_mid.weight") for name in file.entries if "lora_mid" in name}
        tensors = {name: (file, entry) for name, entry in file.entries.items()}

        def make(module: str, a: Factor, b: Factor) -> LoraPair | str:
            if module in tucker:
                return "a Tucker decomposition (lora_mid): not a product of two factors"
            return scaled_pair(module, a, b, alphas.get(module))

        add_pairs(opened, tensors, places, make)
        sort_others(opened, file, places, alphas)
        opened.config = settings_of(opened, file)
        opened.stack = stack.pop_all()
        return opened


def alphas_of(file: TensorFile, modules: set[str]) -> Mapping[str, float]:
    """Module -> α, of the tensors `<module>.alpha`. Raises InputError (bad-alpha) for one that is no number."""
    alphas = {}
    for module in modules:
        entry = file.entries.get(f"{module}.alpha")
        if entry is None:
            continue
        readable = entry.params == 1 and entry.dtype.numpy_name is not None
        value = float(decode(file.read_words(f"{module}.alpha")).reshape(-1)[0]) if readable else math.nan
        if not is_alpha(value):
            raise InputError(
                f"{file.path}: {module[:200]}.alpha is not one number of a usable size",
                code="bad-alpha",
                hint="save the adapter again: its scale is α/r",
            )
        alphas[module] = value
    return alphas


def scaled_pair(module: str, a: Factor, b: Factor, alpha: float | None) -> LoraPair | str:
    """The pair with s = α/r; α is the rank where the file does not tell, which is what its readers take."""
    shape = shape_of("linear", a, b)
    if isinstance(shape, str):
        return shape
    known = float(shape.rank) if alpha is None else alpha
    return LoraPair(
        module, shape.kind, a, b, shape.rank, shape.rows, shape.columns,
        groups=shape.groups, alpha=known, scale=known / shape.rank,
    )  # fmt: skip


def sort_others(
    opened: Adapter, file: TensorFile, places: Mapping[str, Place], alphas: Mapping[str, float]
) -> None:
    """The tensors that are no factors: numbers that were used, magnitudes, and what is unknown."""
    for name, entry in file.entries.items():
        if name in places:
            continue
        module, _, last = name.removesuffix(".weight").rpartition(".")
        reason = {"alpha": ALPHA_REASON, "dora_scale": DORA_REASON, "lora_magnitude_vector": DORA_REASON}.get(
            last
        )
        if last == "alpha" and module not in alphas:
            reason = None
        note = SkippedTensor(name, reason or "unknown tensor", entry.params)
        (opened.other if reason else opened.unaudited).append(note)


def settings_of(opened: Adapter, file: TensorFile) -> PeftConfig:
    """The commonest rank and α, and the name of the base where the header has it."""
    ranks = Counter(pair.rank for pair in opened.pairs).most_common(1)
    alphas = Counter(pair.alpha for pair in opened.pairs).most_common(1)
    return PeftConfig(
        file.path,
        {},
        r=ranks[0][0] if ranks else None,
        lora_alpha=alphas[0][0] if alphas else None,
        use_dora=any(note.reason == DORA_REASON for note in opened.other),
        base_model=file.metadata.get("ss_sd_model_name") or file.metadata.get("ss_base_model_version"),
    )
