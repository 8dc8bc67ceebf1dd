"""SpectralTracker and TelemetryWriter as a Lightning callback.

python examples/lightning_loop.py OUT    then: gradience monitor OUT/run.jsonl
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradience import SpectralTracker, TelemetryWriter
from gradience.telemetry import RunStatus


class Spectra(L.Callback):
    """Losses at every second step, spectra at every eighth."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.tracker = SpectralTracker(module)
        self.run = TelemetryWriter(self.path) if trainer.is_global_zero else None
        if self.run:
            self.run.start({"lora": {"r": 8, "alpha": 16}, "optimizer": {"name": "adamw", "lr": 1e-2}})
            self.run.metrics("lora_modules", 0, self.tracker.modules())

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        step = trainer.global_step
        if self.run and step % 2 == 0:
            self.run.train_step(step, loss=float(outputs["loss"]), lr=1e-2)
        if self.run and step % 8 == 0:
            self.run.metrics("lora_spectra", step, self.tracker.measure(step).to_metrics())

    def on_train_end(self, trainer: Any, module: Any) -> None:
        if self.run:
            self.run.end(RunStatus.OK, step=trainer.global_step)
            self.run.close()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        if self.run:
            self.run.end(RunStatus.ERROR, step=trainer.global_step, reason=type(exception).__name__)
            self.run.close()


class Classifier(L.LightningModule):
    """A tiny network with an adapter."""

    def __init__(self) -> None:
        super().__init__()
        base = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
        self.model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["0", "2"]))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        inputs, labels = batch
        return nn.functional.cross_entropy(self.model(inputs), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=1e-2)


def main(out: Path) -> None:
    L.seed_everything(0)
    inputs = torch.randn(256, 16)
    rows = TensorDataset(inputs, inputs[:, :4].argmax(1))
    trainer = L.Trainer(
        max_epochs=6, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Spectra(out / "run.jsonl")],
    )  # fmt: skip
    trainer.fit(Classifier(), DataLoader(rows, batch_size=32, shuffle=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
