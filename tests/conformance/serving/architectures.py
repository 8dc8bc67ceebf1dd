"""The base models: tiny, random, of several architectures, and the parts of each that an adapter can train."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
GATED = (*PROJECTIONS, "gate_proj", "up_proj", "down_proj")
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,  # of 32, the smallest that vLLM's CPU attention takes
    "vocab_size": 128,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,  # large enough for the prompts to disagree about the next token
}
GROUPED = SHAPE | {"num_key_value_heads": 2, "tie_word_embeddings": False}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    name: its class in transformers, as config.json has it.   linear: the modules that adapters train.
    embedding: the module whose rows can be trained, if any.   ends: embedding and head as targets of LoRA.
    saved: the head that is trained and saved whole.   biases: its linear modules have biases.
    experts: parameters of stacked experts.   gguf: llama.cpp's converter knows it, and it is asked.
    """

    name: str
    config: Callable[[], Any]
    linear: tuple[str, ...] = GATED
    embedding: str = "embed_tokens"
    ends: tuple[str, ...] = ("embed_tokens", "lm_head")
    saved: str = "lm_head"
    task: str = "CAUSAL_LM"
    biases: bool = False
    experts: tuple[str, ...] = ()
    gguf: bool = False

    def make_base(self, folder: Path) -> None:
        """Random weights, and random biases where the model starts with none."""
        torch.manual_seed(0)
        base = self._class(self.config())
        with torch.no_grad():
            for name, parameter in base.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.05)
        base.save_pretrained(folder)

    def load_base(self, folder: Path) -> Any:
        """The base model, in float32."""
        return self._class.from_pretrained(folder, dtype=torch.float32).eval()

    @property
    def _class(self) -> Any:
        return getattr(transformers, self.name)

    def logits(self, model: torch.nn.Module, prompt: list[int]) -> torch.Tensor:
        """Of the next token, or of the classes."""
        if self.task == "SEQ_2_SEQ_LM":
            decoder = torch.tensor([[0, 3, 17]])
            return model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder).logits[0, -1]
        logits = model(input_ids=torch.tensor([prompt])).logits
        return logits[0] if self.task == "SEQ_CLS" else logits[0, -1]


def _gpt2() -> Any:
    return transformers.GPT2Config(
        n_embd=128, n_layer=2, n_head=4, vocab_size=128, n_positions=128, initializer_range=0.15, **NO_TOKENS
    )


def _t5() -> Any:
    return transformers.T5Config(
        d_model=128, d_ff=192, d_kv=32, num_layers=2, num_heads=4, vocab_size=128, initializer_factor=1.0
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("LlamaForCausalLM", lambda: transformers.LlamaConfig(**GROUPED), gguf=True),
    Architecture("Qwen2ForCausalLM", lambda: transformers.Qwen2Config(**GROUPED), biases=True, gguf=True),
    Architecture("MistralForCausalLM", lambda: transformers.MistralConfig(**GROUPED, head_dim=32), gguf=True),
    Architecture("Qwen3ForCausalLM", lambda: transformers.Qwen3Config(**GROUPED, head_dim=32), gguf=True),
    Architecture(
        "GemmaForCausalLM",
        lambda: transformers.GemmaConfig(**GROUPED | {"head_dim": 32, "tie_word_embeddings": True}),
    ),
    Architecture(
        "MixtralForCausalLM",
        lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=4),
        linear=PROJECTIONS,
        experts=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ),
    Architecture(
        "GPT2LMHeadModel",
        _gpt2,
        linear=("c_attn", "c_proj", "c_fc"),
        embedding="wte",
        ends=("wte", "lm_head"),
        biases=True,
    ),
    Architecture(
        "BertForSequenceClassification",
        lambda: transformers.BertConfig(**SHAPE, num_labels=3),
        linear=("query", "key", "value", "dense"),
        embedding="word_embeddings",
        ends=("word_embeddings",),
        saved="classifier",
        task="SEQ_CLS",
        biases=True,
    ),
    Architecture(
        "LlamaForSequenceClassification",
        lambda: transformers.LlamaConfig(**GROUPED, num_labels=3, **NO_TOKENS),
        ends=("embed_tokens",),
        saved="score",
        task="SEQ_CLS",
    ),
    Architecture(
        "T5ForConditionalGeneration",
        _t5,
        linear=("q", "k", "v", "o", "wi", "wo"),
        embedding="",
        ends=("lm_head",),
        task="SEQ_2_SEQ_LM",
    ),
)
