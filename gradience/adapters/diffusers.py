"""LoRA of image models: diffusers' `pytorch_lora_weights.safetensors`, and files with the keys of sd-scripts
(kohya).

diffusers: now `unet.<module>.lora_A.weight` (`transformer.`, `text_encoder.`, …) with a config in the header,
one of PEFT for each part of the pipeline; earlier `<module>.lora.down.weight`, and originally
`<module>.processor.to_q_lora.down.weight`.
kohya: `<module>.lora_down.weight` (r, n[, k, k]), `.lora_up.weight` (m, r[, 1, 1]). Dots in the module path
are underscores. The model is needed to restore them, so such a file can be read but not written.
Without a config, s = α/r with the number `<module>.alpha`, or 1 if there is none.
Source: diffusers 0.42.1, utils/peft_utils.py (`get_peft_kwargs`), utils/state_dict_utils.py,
loaders/lora_base.py; sd-scripts 48d368fa, networks/lora.py.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from gradience.adapters import adapter, locate
from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.config import PeftConfig, config_of, is_alpha
from gradience.adapters.tensors import TensorFile, decode
from gradience.errors import InputError
from gradience.files import strict_json

_KOHYA_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>down|up)\.weight")
ALPHA_REASON = "α of a module"


def is_kohya(path: Path) -> bool:
    """Return whether the safetensors file at `path` holds `lora_down` and `lora_up`."""
    return path.name not in (locate.WEIGHTS, locate.INDEX) and any(
        map(_KOHYA_FACTOR.fullmatch, locate.sniff(path).shapes)
    )


def open_kohya(path: Path, name: str | None, stack: ExitStack) -> Adapter:
    """Open the LoRA at `path`. Raises InputError: bad-alpha, and what `tensors` raises."""
    weights = locate.single(path, name, lambda name: True, "files")
    file = stack.enter_context(TensorFile.open(weights, root=weights.parent))
    opened = adapter.of_one_file("kohya", path, file)
    opened.unwritable = "its module names have underscores in place of dots, so PEFT cannot match them"
    places = adapter.places_in(file, _KOHYA_FACTOR, "down")
    alphas = _alphas(file, {place.module for place in places.values()})
    tucker = {name.removesuffix(".lora_mid.weight") for name in file.entries if "lora_mid" in name}

    def make(module: str, a: Factor, b: Factor) -> LoraPair | str:
        if module in tucker:
            return "a Tucker decomposition (lora_mid): not a product of two factors"
        return adapter.paired(module, "linear", a, b, alphas.get(module, a.entry.shape[0]))

    adapter.sort_tensors(opened, places, make, partial(_known, alphas))
    opened.config = _settings(opened, file)
    return opened


def _alphas(file: TensorFile, modules: Iterable[str]) -> Mapping[str, float]:
    """Module -> α, of the tensors `<module>.alpha`. Raises InputError (bad-alpha) if one is not a number."""
    alphas = {}
    for module in modules:
        entry = file.entries.get(f"{module}.alpha")
        if entry is None:
            continue
        readable = entry.params == 1 and entry.dtype.numpy_name is not None
        value = float(decode(file.read_words(f"{module}.alpha")).reshape(-1)[0]) if readable else math.nan
        if not is_alpha(value):
            raise InputError(
                f"{file.path}: {module[:200]}.alpha is not a single usable number",
                code="bad-alpha",
                hint="save the adapter again: its scale is α/r",
            )
        alphas[module] = value
    return alphas


def _known(alphas: Mapping[str, float], name: str) -> str | None:
    """Describe a tensor that is not a factor: a number that was used, or a magnitude; None if unknown."""
    module, _, last = name.removesuffix(".weight").rpartition(".")
    if last == "alpha":
        return ALPHA_REASON if module in alphas else None
    return adapter.DORA_REASON if last in ("dora_scale", "lora_magnitude_vector") else None


def _settings(opened: Adapter, file: TensorFile) -> PeftConfig:
    """Return the most common rank and α, and the name of the base if the header has it."""
    ranks = Counter(pair.rank for pair in opened.pairs).most_common(1)
    alphas = Counter(pair.alpha for pair in opened.pairs).most_common(1)
    return PeftConfig(
        file.path,
        {},
        r=ranks[0][0] if ranks else None,
        lora_alpha=alphas[0][0] if alphas else None,
        use_dora=any(note.reason == adapter.DORA_REASON for note in opened.other),
        base_model=file.metadata.get("ss_sd_model_name") or file.metadata.get("ss_base_model_version"),
    )


NAME = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
SEVERAL = "its modules belong to several models of a pipeline, and an adapter of PEFT to one"
PARTS = (
    *("unet", "transformer", "transformer_2", "prior", "decoder", "controlnet"),
    *("text_encoder", "text_encoder_2", "text_encoder_3"),
)
"""Prefixes of module names: the models of a pipeline."""
_OF_UNET = re.compile(r"(down_blocks|up_blocks|mid_block)\.")
_OF_TRANSFORMER = re.compile(r"(single_)?transformer_blocks\.")
_FACTOR = re.compile(
    r"(?P<path>.+)\.(?:"
    r"(?P<processor>to_[qkv]|to_out)_lora\.(?P<first>down|up)|lora(?:_linear_layer)?\.(?P<old>down|up)|lora_(?P<new>[AB])"
    r")\.weight"
)


def is_diffusers(path: Path) -> bool:
    """Return True if `path` has diffusers' weights, by their name, or by the keys or the header of a file."""
    if os.path.isdir(path):
        names = set(locate.listing(path))
        return NAME in names and not names & {locate.WEIGHTS, locate.INDEX}
    if path.name in (locate.WEIGHTS, locate.INDEX):
        return False
    shapes, metadata = locate.sniff(path)
    parts = {part for name in shapes for part in name.split(".")}
    beside = os.path.lexists(path.parent / locate.CONFIG)
    old = any((match := _FACTOR.fullmatch(name)) and not match["new"] for name in shapes)
    return bool(shapes) and (old or locate.from_diffusers(shapes, parts, metadata, has_config=beside))


def open_diffusers(path: Path, name: str | None, stack: ExitStack) -> Adapter:
    """Open the LoRA at `path`. Raises InputError: bad-config, bad-alpha, no-lora-tensors, what `tensors` raises."""
    weights = locate.single(path, name, lambda name: name == NAME, "files")
    file = stack.enter_context(TensorFile.open(weights, root=weights.parent))
    in_file = {name: place for name in file.entries if (place := _place(name))}
    if not in_file:
        raise locate.no_factors(weights, file.entries)
    part = part_of_all({place.module for place in in_file.values()})
    places = {name: place._replace(module=part + place.module) for name, place in in_file.items()}
    configs = configs_of(file)
    alphas = _alphas(file, {place.module for place in in_file.values()})

    def make(module: str, a: Factor, b: Factor) -> LoraPair | str:
        model, _, inner = module.partition(".")
        config = configs.get(model)
        if config is None:
            alpha = alphas.get(module.removeprefix(part), a.entry.shape[0])
            return adapter.paired(module, "linear", a, b, alpha)
        pair = adapter.paired(module, "linear", a, b)
        return pair if isinstance(pair, str) else pair.configured(config, inner)

    opened = adapter.of_one_file("diffusers", path, file)
    adapter.sort_tensors(opened, places, make, partial(_known, alphas))
    # Non-standard initialization of the factors, if a part records one.
    init = next((config.init for config in configs.values() if config.init != "true"), "true")
    opened.config = replace(_settings(opened, file), init=init)
    if len({part_of(pair.module) for pair in opened.pairs}) > 1:
        opened.unwritable = SEVERAL
    elif opened.config.use_dora:
        opened.unwritable = adapter.MAGNITUDES_ELSEWHERE
    return opened


def part_of(module: str) -> str | None:
    """Return the pipeline part that a module name starts with; None if it starts with none."""
    first = module.partition(".")[0]
    return first if first in PARTS else None


def part_of_all(modules: Iterable[str]) -> str:
    """Return what old keys lack in front: `unet.` or `transformer.`, by modules that only these have; or nothing.

    >>> part_of_all(["down_blocks.0.proj_in"]), part_of_all(["unet.down_blocks.0.proj_in"])
    ('unet.', '')
    """
    names = set(modules)
    for part, pattern in (("unet", _OF_UNET), ("transformer", _OF_TRANSFORMER)):
        if any(pattern.match(name) for name in names) and not any(part_of(name) for name in names):
            return f"{part}."
    return ""


def _place(name: str) -> adapter.Place | None:
    """Module and side of a factor; the module as today's diffusers names it."""
    match = _FACTOR.fullmatch(name)
    if match is None:
        return None
    side = match["first"] or match["old"] or match["new"]
    module = match["path"].removesuffix(".processor")
    if match["processor"]:
        module += "." + ("to_out.0" if match["processor"] == "to_out" else match["processor"])
    return adapter.Place(module, "A" if side in ("down", "A") else "B")


def configs_of(file: TensorFile) -> Mapping[str, PeftConfig]:
    """Part of the pipeline -> its config, from the header. Raises InputError (bad-config, bad-json)."""
    text = file.metadata.get(METADATA)
    if text is None:
        return {}
    fields = strict_json.loads(text.encode(errors="surrogatepass"), file.path, METADATA)
    if not isinstance(fields, dict):
        raise InputError(
            f"{file.path}: {METADATA} in its header is not a JSON object",
            code="bad-config",
            hint="save the LoRA again with diffusers",
        )
    parts: dict[str, dict[str, object]] = {}
    for name, value in fields.items():
        part, _, inner = name.partition(".")
        parts.setdefault(part, {})[inner] = value
    return {part: config_of(file.path, inner) for part, inner in parts.items() if "r" in inner}
