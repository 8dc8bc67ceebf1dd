"""Tiny models in double precision with a LoRA adapter, rows as token ids, and what autograd itself says of them."""

import numpy as np
import tiny_bench
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    set_seed,
)

from gradience.calibrate.measure import (
    EncodedRow,
    batches_of,
    direction,
    gather_effects,
    gather_moments,
    reach,
    signs,
)
from gradience.spectra import Components

VOCABULARY, SEED = 29, 5
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {
    **SIZES,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3
        )
    ),
    "bert": lambda: BertForSequenceClassification(
        BertConfig(vocab_size=VOCABULARY, num_labels=3, initializer_range=0.3, **SIZES)
    ),
    "llama_labels": lambda: LlamaForSequenceClassification(LlamaConfig(**LLAMA, num_labels=3)),
}
TARGETS = {
    "llama": ["q_proj", "down_proj", "embed_tokens", "lm_head"],
    "gpt2": ["c_attn", "c_proj", "wte"],
    "bert": ["query", "output.dense", "word_embeddings", "pooler.dense"],
    "llama_labels": ["q_proj", "down_proj"],
}
LABELS = {"bert", "llama_labels"}


def toy(kind: str, r: int = 3):
    """A PeftModel with trained factors, in double precision and evaluation mode."""
    set_seed(0)
    task = "SEQ_CLS" if kind in LABELS else "CAUSAL_LM"
    config = LoraConfig(task_type=task, r=r, lora_alpha=2 * r, target_modules=TARGETS[kind], lora_dropout=0.5)
    base = MODELS[kind]()
    if kind == "gpt2":
        config.fan_in_fan_out = True
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    return model.double().eval().requires_grad_(False)


def rows(kind: str, count: int = 7) -> list[EncodedRow]:
    """Rows of unequal lengths."""
    numbers = np.random.default_rng(1)
    encoded = []
    for place in range(count):
        prompt = tuple(numbers.integers(3, VOCABULARY, size=numbers.integers(2, 9)).tolist())
        completion = (
            () if kind in LABELS else tuple(numbers.integers(3, VOCABULARY, size=place % 3 + 1).tolist())
        )
        encoded.append(EncodedRow(f"{place:016x}", prompt, completion, len(completion) or 1, False))
    return encoded


def batches(encoded, size: int):
    return batches_of(tiny_bench.tokenizer(), encoded, size, torch.device("cpu"))


def layers_of(model):
    return reach(model).layers


def moments(model, encoded, size: int, **how):
    gathered, reasons = gather_moments(
        model, layers_of(model), batches(encoded, size, **how), SEED, lambda: None
    )
    assert not reasons
    return gathered


def some_bases(model, seed: int = 0) -> dict[str, list[Components]]:
    """Two bases for each module: random ones, whose effects are as well defined as those of any other."""
    numbers = np.random.default_rng(seed)
    return {
        name: [
            Components(*numbers.normal(size=(2, 3, 2)), np.ones(2)),
            Components(np.eye(3), np.eye(3), np.ones(3)),
        ]
        for name in layers_of(model)
    }


def effects(model, encoded, bases, size: int, seed: int = SEED, **how) -> dict[str, list[np.ndarray]]:
    """By module and basis (rows, components), in the order of the rows given."""
    ids, gathered, reasons = gather_effects(
        model, layers_of(model), batches(encoded, size, **how), bases, seed, lambda: None
    )
    assert not reasons
    place = {row: number for number, row in enumerate(ids)}
    order = [place[row.id] for row in encoded]
    return {name: [each[order] for each in arrays] for name, arrays in gathered.items()}


def factors(layer) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, n) and B (m, r) of a LoRA layer, the parameters themselves."""
    if len(layer.lora_embedding_A):
        return layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def logits_of(model, row: EncodedRow) -> torch.Tensor:
    """Logits of the labels that a row is scored on, computed for it alone and without padding."""
    out = model(input_ids=torch.tensor([row.ids])).logits[0]
    return out[None] if out.dim() == 1 else out[len(row.prompt) - 1 : len(row.ids) - 1]


def drawn_direction(model, row: EncodedRow, seed: int = SEED) -> torch.Tensor:
    with torch.no_grad():
        logits = logits_of(model, row)
        return direction(logits, torch.from_numpy(signs(seed, row.id, row.scored, logits.shape[1])))


def at_labels(labels: torch.Tensor):
    """The loss Σ −log p(label)."""
    return lambda logits: -logits.log_softmax(dim=-1).gather(1, labels[:, None]).sum()


def along(z: torch.Tensor):
    """The logits along fixed directions."""
    return lambda logits: (logits * z).sum()


def jacobians(model, row: EncodedRow, loss_of) -> dict[str, np.ndarray]:
    """J of each module by autograd: the gradient of the loss for B is Σ g·hᵀ, so that J = Bᵀ·∂/∂B."""
    layers = layers_of(model)
    outputs = [factors(layer)[1].requires_grad_(True) for layer in layers.values()]
    gradients = torch.autograd.grad(loss_of(logits_of(model, row)), outputs)
    for B in outputs:
        B.requires_grad_(False)
    return {
        name: (factors(layer)[1].T @ gradient).numpy()
        for (name, layer), gradient in zip(layers.items(), gradients, strict=True)
    }
