"""A second adapter beside a first, for every feature of PEFT's LoRA: each answers as PEFT alone would have it."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from data_files import write_jsonl
from evaluating import IDS, logits
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from raising import raises
from tiny_models import LETTERS, SPECIAL, letters_tokenizer, llama, llama_adapter, sums
from transformers import MixtralConfig, MixtralForCausalLM, set_seed

from gradience import compress_adapter, distill_adapter, evaluate_adapters, shrink_adapter
from gradience.errors import InputError, UsageError
from gradience.evaluate.engines.transformers.engine import TransformersEngine

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "RuntimeWarning")
]  # PEFT's

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
FEATURES = {
    "plain": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "bias of lora_B": {"lora_bias": True},
    "one stack of experts": {"target_parameters": EXPERTS[1:]},
    "both stacks of experts": {"target_parameters": EXPERTS},
    "experts only": {"target_modules": [], "target_parameters": EXPERTS},
    "router": {"target_parameters": ["gate.weight"]},
    "tokens": {"trainable_token_indices": [1, 2]},
    "tokens of the head": {"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole embeddings": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "whole router": {"modules_to_save": ["gate"]},
    "tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "patterns": {"rank_pattern": {r"layers\.\d\.self_attn\.q_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "expression": {"target_modules": r".*\.(0|1)\..*(q|v)_proj"},
    "left out": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.0\..*"},
    "all linear": {"target_modules": "all-linear"},
    "block-diagonal": {"use_bdlora": BdLoraConfig(target_modules_bd_a=["q_proj"], nblocks=2)},
    "velora": {"velora_config": VeloraConfig()},
    "monteclora": {"monteclora_config": MontecloraConfig()},
}
NOT_TRUNCATED = ("dora", "all linear", "block-diagonal", "velora", "monteclora")
SAMPLE = ["plain", "both stacks of experts", "tokens", "whole embeddings"]


def mixtral() -> MixtralForCausalLM:
    set_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_local_experts": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    return MixtralForCausalLM(MixtralConfig(vocab_size=len(LETTERS) + len(SPECIAL), **shape, **heads)).eval()


def written(folder: Path, seed: int, base: torch.nn.Module, **feature: object) -> Path:
    """An adapter whose every trained tensor is random."""
    config = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"], **feature})
    model = get_peft_model(base, config)
    set_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in ("lora_", "modules_to_save", "trainable_tokens_delta")):
                weight.normal_(std=0.5)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def alone(folder: Path) -> torch.Tensor:
    return PeftModel.from_pretrained(mixtral(), str(folder)).eval()(input_ids=IDS).logits.detach()


def check_pair(folders: dict[tuple[str, int], Path], first: str, second: str) -> bool:
    """Whether PEFT can hold both; in either case what is there answers as it does alone."""
    expected = {key: alone(folders[key]) for key in ((first, 1), (second, 2), ("plain", 2))}
    base = mixtral()(input_ids=IDS).logits.detach()
    engine = TransformersEngine(mixtral(), letters_tokenizer())
    engine.add("first", folders[first, 1])
    with suppress(InputError):
        engine.add("second", folders[second, 2])
    both = "second" in engine.adapters
    if both:
        assert torch.equal(logits(engine, "second"), expected[second, 2])
    assert torch.equal(logits(engine, "first"), expected[first, 1])
    assert torch.equal(logits(engine, None), base)
    if both:
        engine.remove("second")
    engine.add("plain", folders["plain", 2])
    assert torch.equal(logits(engine, "plain"), expected["plain", 2])
    assert torch.equal(logits(engine, "first"), expected[first, 1])
    for name in ("first", "plain"):
        engine.remove(name)
        with pytest.raises(UsageError, match=name):
            logits(engine, name)
    assert torch.equal(logits(engine, None), base)
    size = sum(parameter.numel() for parameter in mixtral().parameters())
    assert sum(parameter.numel() for parameter in engine.base.parameters()) == size
    return both


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")

    def of(*names: str) -> dict[tuple[str, int], Path]:
        for name in names:
            for seed in (1, 2):
                if not (root / f"{name} {seed}").exists():
                    written(root / f"{name} {seed}", seed, mixtral(), **FEATURES[name])
        return {(name, seed): root / f"{name} {seed}" for name in names for seed in (1, 2)}

    return of


@pytest.mark.parametrize("name", FEATURES)
def test_a_second_adapter_of_the_same_kind(name, folders):
    assert check_pair(folders("plain", name), name, name)


@pytest.mark.parametrize("second", SAMPLE)
@pytest.mark.parametrize("first", SAMPLE)
def test_a_second_adapter_of_another_kind(first, second, folders):
    clash = {"tokens", "whole embeddings"}  # one module trained in two ways
    assert check_pair(folders("plain", first, second), first, second) != (clash == {first, second})


@pytest.mark.conformance
@pytest.mark.parametrize("first", FEATURES)
def test_all_pairs_of_kinds(first, folders):
    held = [second for second in FEATURES if check_pair(folders("plain", first, second), first, second)]
    assert first in held
    assert "plain" in held


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ({"kasa_config": KasaConfig()}, "kasa_config"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ],
)
def test_what_changes_the_base_is_refused(tmp_path, feature, words):
    engine = TransformersEngine(llama(), letters_tokenizer())
    with raises(InputError, "adapter-changes-base", words):
        engine.add("a", written(tmp_path / "a", 1, llama(), **feature))
    assert torch.equal(logits(engine, None), llama()(input_ids=IDS).logits)


def test_an_activated_lora_is_refused(tmp_path):
    """PEFT applies it behind its invocation tokens only; generating token by token, we would not see these."""
    folder = llama_adapter(tmp_path / "a", 1, alora_invocation_tokens=[1, 2])
    with raises(InputError, "other-method", "activated LoRA"):
        TransformersEngine(llama(), letters_tokenizer()).add("a", folder)


# --- the verbs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixtral")
    mixtral().save_pretrained(folder / "base")
    letters_tokenizer().save_pretrained(folder / "base")
    write_jsonl(folder / "rows.jsonl", ({"prompt": row.prompt, "answer": row.answer} for row in sums(40)))
    prompts = ({"prompt": row.prompt, "completion": row.response} for row in sums(24))
    write_jsonl(folder / "prompts.jsonl", prompts)
    return folder


def verbs(base: Path, folders: dict[tuple[str, int], Path], name: str, output: Path) -> None:
    """Evaluate two adapters of a kind; truncate one, distill it; search for the smallest."""
    given = {"base_model": base / "base", "device": "cpu"}
    asked = {"data": base / "rows.jsonl", "max_new_tokens": 3, "batch_size": 20, **given}
    one, other = folders[name, 1], folders[name, 2]
    report = evaluate_adapters([one, other], output=output / "evaluated", **asked)
    assert [row.n for row in report.adapters] == [40, 40]
    if name in NOT_TRUNCATED:
        return
    compress_adapter(one, output / "small", rank=1)
    distilled = distill_adapter(
        output / "small", output / "distilled", teacher=one, prompts=base / "prompts.jsonl", steps=2, **given
    )
    assert distilled.steps == 2
    shrunk = shrink_adapter(one, output / "shrunk", ranks=[1], margin="90", **asked)
    assert shrunk.candidates[0].status != "not evaluated"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["both stacks of experts", "tokens"])
def test_evaluate_shrink_and_distil(name, folders, base, tmp_path):
    verbs(base, folders(name), name, tmp_path)


@pytest.mark.conformance
@pytest.mark.parametrize("name", FEATURES)
def test_every_kind_through_the_verbs(name, folders, base, tmp_path):
    verbs(base, folders(name), name, tmp_path)
