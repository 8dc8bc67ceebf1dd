"""Base models and adapter configs of strangers, which `evaluate` loads with transformers and PEFT."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.surface import Input, Place, Surface

ROWS = "".join(json.dumps({"prompt": f"{one} + 1 =", "answer": str(one + 1)}) + "\n" for one in range(6))
VERB = "evaluate in/adapter -b in/base --data in/rows.jsonl -o out/result --max-new-tokens 2 --device cpu"
HUGE = 10**12
CONFIGS: dict[str, dict[str, Any]] = {
    "a negative vocabulary": {"vocab_size": -1},
    "a vocabulary of 10^12": {"vocab_size": HUGE},
    "a vocabulary of 250 million": {"vocab_size": 250_000_000},
    "a negative width": {"hidden_size": -32},
    "a width of 10^9": {"hidden_size": 10**9},
    "10^9 heads": {"num_attention_heads": 10**9},
    "heads 10^10 wide": {"head_dim": 10**10},
    "no layers": {"num_hidden_layers": 0},
    "10^9 layers": {"num_hidden_layers": 10**9},
    "5000 layers": {"num_hidden_layers": 5000},
    "10^10 in the middle": {"intermediate_size": 10**10},
    "a rope with the factor 0": {"rope_parameters": {"rope_type": "linear", "factor": 0, "rope_theta": 10000.0}},
    "10^12 positions": {"max_position_embeddings": HUGE},
    "the dtype of a module": {"dtype": "nn"},
    "an unknown model": {"model_type": "nope"},
    "a padding token of 10^9": {"pad_token_id": 10**9},
    "an unknown quantization": {"quantization_config": {"quant_method": "nope"}},
    "remote code": {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"}, "model_type": "evil"},
    "kernels from the hub": {"attn_implementation": "evil/kernels", "_attn_implementation": "evil/kernels"},
    "a million layer types": {"layer_types": ["full_attention"] * 1_000_000},
    "labels without end": {"num_labels": HUGE},
}  # fmt: skip
CONFIG_TEXTS = {
    "a list": b"[]",
    "lists 100,000 deep": b'{"model_type": "llama", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "not UTF-8": b'{"model_type": "\xff"}',
}
TOKENIZERS = {
    "tokenizer.json": {"a list": b"[]", "lists 100,000 deep": b"[" * 100_000 + b"]" * 100_000},
    "tokenizer_config.json": {
        "a class that is not there": b'{"tokenizer_class": "Nope"}',
        "tokens of words": b'{"added_tokens_decoder": {"x": "y"}}',
        "remote code": b'{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}, "tokenizer_class": "Evil"}',
    },
    "special_tokens_map.json": {"a number": b'{"eos_token": 5}'},
    "generation_config.json": {"nonsense": b'{"temperature": "x", "max_length": -5}'},
}
TOKENIZER_PARTS: dict[str, dict[str, Any]] = {
    "a merge of nothing": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
    "an id beyond all": {"model": {"type": "BPE", "vocab": {"a": 99_999_999_999}, "merges": []}},
    "an expression that never ends": {
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": "([0-9 +=]+)+!"}, "behavior": "Isolated", "invert": False
        }
    },
    "a broken expression": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    },
    "a template of tokens that are not there": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "nope", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
    "added tokens beyond all": {
        "added_tokens": [
            {
                "id": 2**31, "content": "x", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False,
            }
        ]
    },
}  # fmt: skip
REGEX = "([a-z_.0-9]+)+!"
ADAPTERS: dict[str, dict[str, Any]] = {
    "target_modules that never end": {"target_modules": REGEX},
    "exclude_modules that never end": {"exclude_modules": REGEX},
    "a rank_pattern that never ends": {"rank_pattern": {REGEX: 2}},
    "an alpha_pattern that never ends": {"alpha_pattern": {REGEX: 2}},
    "a layers_pattern that never ends": {"layers_pattern": [REGEX], "layers_to_transform": [0]},
    "modules_to_save that never end": {"modules_to_save": [REGEX]},
    "a broken target_modules": {"target_modules": "("},
    "an expression that compiles for ever": {"target_modules": "(?:(?:(?:a{999}){999}){999}){999}"},
    "200,000 patterns": {"rank_pattern": {f"module{number}": 2 for number in range(200_000)}},
    "target_modules in numbers": {"target_modules": [1]},
    "target_parameters that are not there": {"target_parameters": ["nope.weight"]},
    "Megatron elsewhere": {"megatron_config": {"a": 1}, "megatron_core": "this"},
    "layer_replication without end": {"layer_replication": [[0, 1]] * 100_000},
    "tokens beyond all": {"trainable_token_indices": [2**70]},
    "an unknown initialization": {"init_lora_weights": "nope"},
    "EVA": {"init_lora_weights": "eva", "eva_config": "x"},
    "rank 65,536": {"r": 65_536},
    "QA-LoRA": {"use_qalora": True, "qalora_group_size": 0},
    "Arrow": {"arrow_config": {"x": 1}},
    "a runtime": {"runtime_config": {"ephemeral_gpu_offload": True}},
    "code": {"auto_mapping": {"base_model_class": "system", "parent_library": "os"}},
    "all modules saved": {"modules_to_save": ["model"]},
    "an unknown type": {"peft_type": "NOPE"},
}  # fmt: skip


def good_files(folder: Path) -> dict[str, Path]:
    """A base of two layers, an adapter of it, rows, and a pickle of a tensor that does not fit."""
    import tiny_bench
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM, set_seed

    base = tiny_bench.llama(folder / "base")
    set_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(LlamaForCausalLM.from_pretrained(base), config).save_pretrained(folder / "adapter")
    torch.save({"model.embed_tokens.weight": torch.zeros(2, 2)}, folder / "pytorch_model.bin")
    return {"in/base": base, "in/adapter": folder / "adapter", "in/rows.jsonl": folder / "rows.jsonl"}


class Opened:
    """What a pickle runs."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("opened",)


def edited(folder: Path, name: str, change: Callable[[Path], object]) -> Place:
    """A copy of `folder` in which the file `name` is changed."""

    def make(place: Path) -> None:
        shutil.copytree(folder, place)
        change(place / name)

    return make


def with_keys(keys: dict[str, Any]) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def with_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def pickled(content: bytes) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        path.unlink()
        (path.parent / "pytorch_model.bin").write_bytes(content)

    return change


def leading_away(path: Path) -> None:
    (path.parent / "model.safetensors").unlink()
    path.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "../../rows.jsonl"}}))


def surface(folder: Path) -> Surface:
    os.environ["RUST_BACKTRACE"] = "0"  # as it is where nobody sets it: tokenizers may panic
    (folder / "rows.jsonl").write_text(ROWS)
    files: dict[str, Any] = good_files(folder)

    def asked(
        name: str, where: str, file: str, change: Callable[[Path], object], *flags: str, **more: Any
    ) -> Input:
        changed = {f"in/{where}": edited(files[f"in/{where}"], file, change)}
        codes = more.pop("codes", {0, 2, 3, 8})  # with 0 and 8 it does no harm
        return Input(name, " ".join((VERB, *flags)), files | changed, codes=codes, **more)

    inputs = [
        asked(f"{where}, {file}: {name}{flag}", where, file, with_keys(keys), flag)
        for where, file, all_keys in (
            ("base", "config.json", CONFIGS),
            ("adapter", "adapter_config.json", ADAPTERS),
            ("base", "tokenizer.json", TOKENIZER_PARTS),
        )
        for name, keys in all_keys.items()
        for flag in ("", " --dry-run")
    ]
    inputs += [
        asked(f"{file}: {name}", "base", file, with_bytes(content))
        for file, contents in {"config.json": CONFIG_TEXTS, **TOKENIZERS}.items()
        for name, content in contents.items()
    ]
    weights, unfit = "model.safetensors", (folder / "pytorch_model.bin").read_bytes()
    evil, stranger = pickle.dumps(Opened()), with_keys({"base_model_name_or_path": "in/base"})
    chosen = {
        "in/adapter": edited(files["in/adapter"], "adapter_config.json", stranger),
        "in/base": edited(files["in/base"], weights, pickled(unfit)),
    }
    inputs += [
        Input("a pickled base that the adapter names", VERB.replace(" -b in/base", ""), files | chosen),
        asked("a pickled base that runs code", "base", weights, pickled(evil), codes={3}),
        asked("a pickle that torch refuses", "base", weights, pickled(b"\x80\x02}."), codes={3}),
        asked("tensors that do not fit", "base", weights, pickled(unfit), codes={3}),
        asked(
            "half of the weights", "base", weights, lambda path: path.write_bytes(path.read_bytes()[:1000])
        ),
        asked("no tensors", "base", weights, with_bytes(b"\x02\0\0\0\0\0\0\0{}"), codes={3}),
        asked("an index that leads away", "base", f"{weights}.index.json", leading_away, codes={3}),
        Input("an unknown device", VERB.replace("cpu", "evil:0"), files, codes={2}, names=["evil:0"]),
    ]
    return Surface(
        what="base models and adapter configs",
        good=[
            Input("evaluate", VERB, files, codes={0, 8}),
            Input("forecast", f"{VERB} --dry-run", files, codes={0}),
        ],
        inputs=inputs,
        may=(
            "subprocess.Popen",
            "os.posix_spawn",
            "os.fork",
        ),  # chat templates and expressions have processes
    )
