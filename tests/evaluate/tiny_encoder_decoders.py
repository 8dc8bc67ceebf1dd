"""Encoder–decoder models, T5 and BART: tiny, and trained a little on sums."""

from __future__ import annotations

import torch
from tiny_models import LETTERS, SPECIAL, letters_tokenizer, sums
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

END, BEGIN, PAD = (len(LETTERS) + place for place in range(3))
VOCABULARY = len(LETTERS) + len(SPECIAL)
EXAMPLES = sums(16)
TARGETS = {"t5": ["q", "v"], "bart": ["q_proj", "v_proj"]}


def model_of(kind: str, **changes):
    set_seed(0)
    if kind == "t5":
        shape = {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": PAD,
        }
        return T5ForConditionalGeneration(
            T5Config(
                vocab_size=VOCABULARY,
                pad_token_id=PAD,
                eos_token_id=END,
                dropout_rate=0.0,
                **shape,
                **changes,
            )
        )
    sizes = {
        f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 48))
    }
    ids = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END, "decoder_start_token_id": END}
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=VOCABULARY, d_model=32, max_position_embeddings=64, encoder_attention_heads=4, dropout=0.0,
            decoder_attention_heads=4, forced_eos_token_id=None, forced_bos_token_id=BEGIN,
            **{**sizes, **ids, **changes},
        )
    )  # fmt: skip


def tokenizer_of(kind: str):
    """T5 closes a text; BART opens and closes it."""
    return letters_tokenizer(bos=kind == "bart", closes=True, pad_token="<pad>", bos_token="<s>")


def labels_of(tokenizer, texts):
    labels = tokenizer(text_target=texts, padding=True, return_tensors="pt")["input_ids"]
    return labels.masked_fill(labels == PAD, -100)


def train(model, tokenizer, steps: int, seed: int):
    """Steps on sums, as everybody trains such a model: `tokenizer(prompt)` and `tokenizer(text_target=answer)`."""
    set_seed(seed)
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    inputs = tokenizer([e.prompt for e in EXAMPLES], padding=True, return_tensors="pt")
    labels = labels_of(tokenizer, [e.answer for e in EXAMPLES])
    for _ in range(steps):
        model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
