"""Live spectra of LoRA modules in any training loop: PEFT models, or pairs of tensors. No transformers.

Only r x r matrices leave the device. For A (r, n) and B (m, r) the Gram products AAᵀ and BᵀB are computed on
the factors' device, in float32 with TF32 off. All of them are copied to the CPU at once (the only
synchronization), and the audit's numeric core computes the singular values. Nothing is computed or
synchronized between two measurements.

    tracker = SpectralTracker(model)
    with TelemetryWriter("run.jsonl") as run:
        run.metrics("lora_modules", 0, tracker.modules())
        for step in ...:
            if step % 100 == 0:
                run.metrics("lora_spectra", step, tracker.measure(step).to_metrics())
"""

from gradience.live.tracker import LivePair, ModuleSpectrum, Snapshot, SpectralTracker, find_pairs

__all__ = ["LivePair", "ModuleSpectrum", "Snapshot", "SpectralTracker", "find_pairs"]
