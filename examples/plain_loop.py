"""SpectralTracker and TelemetryWriter in a training loop written by hand.

python examples/plain_loop.py OUT        then: gradience monitor OUT/run.jsonl
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from gradience import SpectralTracker, TelemetryWriter


def main(out: Path) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["0", "2"]))
    inputs = torch.randn(256, 16)
    labels = inputs[:, :4].argmax(1)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)

    tracker = SpectralTracker(model)
    with TelemetryWriter(out / "run.jsonl") as run:
        run.start({"lora": {"r": 8, "alpha": 16}, "optimizer": {"name": "adamw", "lr": 1e-2}})
        run.metrics("lora_modules", 0, tracker.modules())
        for step in range(1, 61):
            rows = torch.randint(0, 256, (32,))
            loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 2 == 0:
                run.train_step(step, loss=loss.item(), lr=1e-2)
            if step % 10 == 0:
                run.metrics("lora_spectra", step, tracker.measure(step).to_metrics())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
