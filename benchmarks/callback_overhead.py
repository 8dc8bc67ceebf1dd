"""What the callback costs: time inside its hooks against the time of a training step.

python benchmarks/callback_overhead.py               SmolLM2-135M, LoRA on all 210 linear layers, r = 16
python benchmarks/callback_overhead.py --rank 64     the same at r = 64
python benchmarks/callback_overhead.py --count       arithmetic and transfers for a 7B model at r = 64; no model needed

The time in the hooks is measured from inside, in the same process and at the same moments as the steps, so
that a busy machine slows both alike; two runs, one with and one without, would differ by its noise alone.
Needs `pip install ".[demo]"`.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

MISTRAL_7B = {
    "q_proj": (4096, 4096), "k_proj": (4096, 1024), "v_proj": (4096, 1024), "o_proj": (4096, 4096),
    "gate_proj": (4096, 14336), "up_proj": (4096, 14336), "down_proj": (14336, 4096),
}  # fmt: skip
LAYERS, BASE_PARAMS = 32, 7.24e9


def overhead(rank: int, steps: int, batch: int, length: int) -> None:
    """Train for `steps` steps, measure spectra at every one, and print the shares of other intervals."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from gradience import GradienceCallback
    from gradience.live import SpectralTracker

    model, rows = lora_smollm2(rank, steps * batch, length)
    spent: dict[str, list[float]] = defaultdict(list)
    clock: dict[str, Any] = {}

    class Timed(GradienceCallback):
        """The callback with a stopwatch around on_log."""

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            before, measured = time.perf_counter(), clock.pop("measured", 0.0)
            super().on_log(args, state, control, **kwargs)
            measured = clock.pop("measured", 0.0)
            spent["log"].append(time.perf_counter() - before - measured)
            spent["spectra"].append(measured)

    real = SpectralTracker.measure

    def timed_measure(self: SpectralTracker, step: int) -> Any:
        before = time.perf_counter()
        snapshot = real(self, step)
        clock["measured"] = time.perf_counter() - before
        return snapshot

    class Steps(TrainerCallback):
        """Times from step to step, without the hooks."""

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock["step"] = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            spent["step"].append(time.perf_counter() - clock["step"])

    SpectralTracker.measure = timed_measure  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                logging_steps=1,
                per_device_train_batch_size=batch,
                report_to=[],
                save_strategy="no",
                use_cpu=not torch.cuda.is_available(),
                disable_tqdm=True,
            ),
            train_dataset=rows,
            callbacks=[Steps(), Timed(spectra_every=1)],
        ).train()
        size = (Path(folder) / "run.jsonl").stat().st_size
    print(
        f"model     SmolLM2-135M, r = {rank}, {batch} rows of {length} tokens, {torch.get_num_threads()} threads"
    )
    show(spent, size / steps)


def lora_smollm2(rank: int, count: int, length: int) -> tuple[Any, list[dict[str, Any]]]:
    """SmolLM2 with LoRA on every linear layer, and `count` rows of random tokens."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    from gradience.models import embedded

    set_seed(0)
    base = AutoModelForCausalLM.from_pretrained(embedded.smollm2(), dtype=torch.bfloat16)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    ids = torch.randint(0, 40_000, (count, length))
    return get_peft_model(base, config), [{"input_ids": row, "labels": row} for row in ids]


def show(spent: dict[str, list[float]], bytes_per_step: float) -> None:
    """Print the medians, and the shares of two ways of logging."""
    step, log, spectra = (statistics.median(spent[key][2:]) for key in ("step", "log", "spectra"))
    print(f"step      {1000 * step:9.1f} ms (median of {len(spent['step'])})")
    print(f"log       {1000 * log:9.2f} ms in the callback, writing the spectra included")
    print(f"spectra   {1000 * spectra:9.2f} ms for all modules")
    print(f"run.jsonl {bytes_per_step / 1000:9.1f} kB a step with spectra at each")
    for label, every_log, every_spectra in (
        ("logging every step, spectra every 10 steps", 1, 10),
        ("logging every 10 steps, spectra every 10 logs (default)", 10, 100),
    ):
        share = (log / every_log + spectra / every_spectra) / step
        print(f"{share:9.3%}  {label}")


def count(rank: int) -> None:
    """What one measurement of a 7B model asks of a GPU, and what its r x r matrices cost a CPU."""
    from gradience import spectra

    modules = [(n, m) for n, m in MISTRAL_7B.values() for _ in range(LAYERS)]
    flops = sum(2 * rank * rank * (n + m) for n, m in modules)
    factors = sum(rank * (n + m) for n, m in modules)
    moved = sum(2 * rank * rank * 4 for _ in modules)
    tokens = 16 * 512
    generator = np.random.default_rng(0)
    started = time.process_time()
    for n, m in modules:
        A, B = generator.standard_normal((rank, rank)), generator.standard_normal((rank, rank))
        spectrum = spectra.spectrum_from_grams(spectra.Core(A @ A.T, 0, n), spectra.Core(B.T @ B, 0, m))
        if spectrum is not None:
            spectra.stable_rank(spectrum.values)
            spectra.energy_rank(spectrum.values, 0.9)
    seconds = time.process_time() - started
    print(f"7B model, {len(modules)} modules, r = {rank}, {factors / 1e6:.1f} M LoRA parameters")
    print(f"arithmetic  {flops / 1e9:8.1f} GFLOP in float32, one measurement")
    print(
        f"            {4 * BASE_PARAMS * tokens / 1e9:8.0f} GFLOP in a training step of 16 x 512 tokens (4·N a token)"
    )
    print(f"            {flops / (4 * BASE_PARAMS * tokens):8.3%} of a step")
    print(
        f"memory      {factors * (2 + 4 + 4) / 1e6:8.0f} MB read and written (bf16 in, float32 out and in again)"
    )
    print(f"transfer    {moved / 1e6:8.1f} MB to the CPU, in one copy; one synchronization")
    print(f"kernels     {len(modules) * 4:8d} launches (a cast and a product for each factor)")
    print(f"CPU         {1000 * seconds:8.0f} ms of processor time for {len(modules)} spectra")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rank", type=int, default=None, help="LoRA rank (16; with --count 64)")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--count", action="store_true", help="count for a 7B model instead")
    options = parser.parse_args()
    if options.count:
        count(options.rank or 64)
    else:
        overhead(options.rank or 16, options.steps, options.batch, options.length)


if __name__ == "__main__":
    main()
