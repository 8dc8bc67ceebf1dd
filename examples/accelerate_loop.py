"""SpectralTracker and TelemetryWriter with Accelerate: only the main process writes.

python examples/accelerate_loop.py OUT   then: gradience monitor OUT/run.jsonl
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradience import SpectralTracker, TelemetryWriter


def main(out: Path) -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    base = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["0", "2"]))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    inputs = torch.randn(256, 16)
    rows = TensorDataset(inputs, inputs[:, :4].argmax(1))
    model, optimizer, loader = accelerator.prepare(
        model, optimizer, DataLoader(rows, batch_size=32, shuffle=True)
    )

    tracker = SpectralTracker(model)  # finds the LoRA layers below Accelerate's wrappers
    writer = TelemetryWriter(out / "run.jsonl") if accelerator.is_main_process else None
    step = 0
    with writer or nullcontext():
        if writer:
            writer.start({"lora": {"r": 8, "alpha": 16}, "optimizer": {"name": "adamw", "lr": 1e-2}})
            writer.metrics("lora_modules", 0, tracker.modules())
        for _ in range(6):
            for inputs, labels in loader:
                step += 1
                loss = nn.functional.cross_entropy(model(inputs), labels)
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                if writer and step % 4 == 0:
                    writer.train_step(step, loss=loss.item(), lr=1e-2)
                if writer and step % 8 == 0:
                    writer.metrics("lora_spectra", step, tracker.measure(step).to_metrics())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
