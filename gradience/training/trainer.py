"""Train one LoRA adapter: seeded, resumable and recorded. The only trainer of the project.

Hugging Face's Trainer runs the steps, PEFT provides the adapter, GradienceCallback the telemetry. This module
adds the order of operations: every random stream has its own seed (settings.py), set before its draw; the loss
covers only the response (encode.py); and the inputs and the result are recorded.

On one machine, with the same number of threads and the same versions, the same call gives the same bytes.
"""

import copy
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from gradience.digests import Sha256, sha256_file
from gradience.files.shared_names import path_text
from gradience.files.whole import whole_folder, write_errors
from gradience.live.callback import GradienceCallback
from gradience.models.load import Base, choose_device, device_name, load_base, make_current, quiet
from gradience.models.settings import ModelSettings
from gradience.progress import Progress
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.base.report import Stopwatch
from gradience.reports.training import ADAPTER, REPORT, Start, TrainedExamples, TrainingReport
from gradience.tasks.base import Task
from gradience.tasks.examples import fingerprint
from gradience.training import resume
from gradience.training.encode import Collator, encode, labels_of
from gradience.training.settings import STREAMS, TrainSettings, stream

# ---------------------------------------------------------------- the Trainer's arguments


@dataclass
class OneDevice(TrainingArguments):
    """The Trainer's arguments, on the device that was chosen and on no other one."""

    place: str = "cpu"
    """The device, as torch writes it."""

    @property
    def device(self) -> torch.device:
        """Return the device of the model and the batches."""
        super().device  # noqa: B018  (sets up accelerate on first use)
        return torch.device(self.place)

    @property
    def n_gpu(self) -> int:
        """At most one: several would share each batch through DataParallel, and so multiply it."""
        return min(1, int(super().n_gpu))


@contextmanager
def accelerate_on(device: torch.device) -> Iterator[None]:
    """Let accelerate take `device` while this lasts."""
    name, before = "ACCELERATE_TORCH_DEVICE", os.environ.get("ACCELERATE_TORCH_DEVICE")
    os.environ[name] = str(device)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def trainer_arguments(
    recipe: TrainSettings, folder: Path, seed: int, base: Base, checkpointing: bool
) -> OneDevice:
    """Return the recipe as the Trainer's arguments, and make the base's device the current one.

    folder: for checkpoints. checkpointing: gradient checkpointing.
    """
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": recipe.max_steps or -1,
        "num_train_epochs": recipe.epochs or 1,
        "learning_rate": recipe.lr,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        # transformers 5: a number below 1 is a share of all steps.
        "warmup_steps": recipe.warmup_steps or recipe.warmup_ratio or 0,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "optim": recipe.optim,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "bf16": recipe.bf16,
        "logging_steps": recipe.logging_steps,
        "logging_nan_inf_filter": False,  # NaN losses must be visible
        "save_strategy": "steps" if recipe.save_steps else "no",
        "save_steps": recipe.save_steps or 500,
        "seed": stream(seed, "training"),
        "data_seed": stream(seed, "data order"),
        "use_cpu": base.device == "cpu",
        "dataloader_pin_memory": base.device.startswith("cuda"),
        "label_names": ["labels"],
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
    }
    if checkpointing:
        known = {field.name for field in fields(OneDevice)}
        # Renamed within transformers 5; the old name goes away in 6.
        name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
        arguments |= {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    device = torch.device(base.device)
    with accelerate_on(device):
        args = OneDevice(place=base.device, **arguments)
        assert args.device == device  # checked here: the first access sets up accelerate
    make_current(device)  # transformers has just made the first GPU the current one
    return args


# ---------------------------------------------------------------- the network


Trained = Literal["lora", "head"]


def with_fresh_lora(
    base: Base,
    lora: Mapping[str, Any],
    settings: ModelSettings,
    seed: int,
    *,
    labels: int | None,
    trained: Trained,
) -> Any:
    """Return the base with LoRA factors (B = 0) drawn right after their stream's seed is set.

    `trained="head"` freezes the factors; `labels` is None for a model that generates.
    """
    from peft import LoraConfig, get_peft_model

    set_seed(stream(seed, "lora"))
    # A copy: PEFT extends the list `modules_to_save` that it is given.
    config = LoraConfig(task_type="CAUSAL_LM" if labels is None else "SEQ_CLS", **copy.deepcopy(dict(lora)))
    with quiet():
        network = get_peft_model(base.model, config)
    if settings.gradient_checkpointing:
        network.enable_input_require_grads()
    if trained == "head":
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight.requires_grad_(False)
    return network


Reading = Callable[[], int | None]
"""Returns the peak memory in bytes since measurement started; None if it is not measured."""


def watch_peak(device: torch.device) -> Reading:
    """Start measuring the memory that torch allocates on a GPU, including what is in use already; None on a CPU."""
    if device.type != "cuda":
        return lambda: None
    torch.cuda.init()  # type: ignore[no-untyped-call]
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: int(torch.cuda.max_memory_allocated(device))


class ParameterCounts(NamedTuple):
    """Parameter counts of an adapter in the network."""

    lora_params: int
    other_params: int
    """Other trained parameters, such as a classifier's head."""
    sha256: str
    """Over names and bytes of both."""


def weights_of(network: Any) -> ParameterCounts:
    """Count and hash the LoRA factors, and whatever else is trainable."""
    digest = Sha256()
    lora = other = 0
    for name, weight in sorted(network.named_parameters()):
        if "lora_" in name:
            lora += weight.numel()
        elif weight.requires_grad:
            other += weight.numel()
        else:
            continue
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return ParameterCounts(lora, other, digest.hexdigest())


def store(network: Any, folder: Path, base_name: str) -> None:
    """Write the adapter whole, with PEFT, and name the base instead of its folder in this machine's cache."""
    with whole_folder(folder, force=True) as scratch:
        network.save_pretrained(scratch)
        config_path = scratch / "adapter_config.json"
        config = json.loads(read_file(config_path, MAX_SETTINGS_BYTES))
        config["base_model_name_or_path"] = base_name
        if isinstance(config["target_modules"], list):  # a set in PEFT, written in no fixed order
            config["target_modules"].sort()
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (scratch / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def train(
    task: Task,
    *,
    model: ModelSettings,
    lora: Mapping[str, Any],
    recipe: TrainSettings,
    seed: int,
    output: Path,
    trained: Trained = "lora",
    device: str = "auto",
    on_step: Progress | None = None,
) -> TrainingReport:
    """Train an adapter on the task's train examples and write it to `output`/adapter, with `training.json`.

    `lora` holds arguments of PEFT's LoraConfig, including a full `rank_pattern` and `alpha_pattern`. With
    `trained="head"` the LoRA stays at B = 0: a control that shows the effect of the classifier's head only.
    A call whose process was killed resumes from the last complete checkpoint in `output`
    (`recipe.save_steps`); a finished call returns its report.
    `output` also holds `run.jsonl`, the telemetry.

    Raises InputError or NetworkError if the base cannot be loaded, InputError if `output` holds a different
    training (`other-training`), UsageError if task and model do not fit together (`task-model`), and for an
    unavailable device (`no-device`); OutputError (`write-failed`).
    """
    watch = Stopwatch(command="train")
    labels = labels_of(task, model)
    request = {"lora": dict(lora), "recipe": recipe.model_dump(mode="json"), "seed": seed, "trained": trained}
    if (output / REPORT).is_file():
        return resume.finished(output, request)
    with write_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    peak = watch_peak(choose_device(device))
    base = load_base(model, labels=labels, seed=stream(seed, "base"), device=device)
    network = with_fresh_lora(base, lora, model, seed, labels=labels, trained=trained)
    examples = task.examples.of("train", recipe.train_samples)
    encoded = encode(base.tokenizer, task, examples, recipe.max_length)
    weights = weights_of(network)
    data = TrainedExamples(
        task=task.name,
        n=len(encoded.features),
        sha256=fingerprint(examples),
        truncated=encoded.truncated,
        left_out=encoded.left_out,
        tokens=encoded.tokens,
    )
    decides = request | {"base": base.fingerprint, "data": data.sha256}
    # Settings that may change a training's last bits, but do not invalidate it.
    device_used = device_name(base.model.device)
    numerics = {"threads": torch.get_num_threads(), "versions": versions(), "device": device_used}
    journal = resume.TrainingJournal(output / resume.JOURNAL, decides, weights.sha256, numerics)
    args = trainer_arguments(recipe, output / resume.CHECKPOINTS, seed, base, model.gradient_checkpointing)
    collator = Collator(base.tokenizer)
    trainer = Trainer(
        model=network,
        args=args,
        train_dataset=encoded.features,  # a list has all that a data set needs: a length, and places
        data_collator=collator,
        callbacks=[
            resume.MarkComplete(),
            _Watch(collator, journal, on_step),
            # Whoever trains through here evaluates the finished adapter, Bench first of all.
            GradienceCallback(output / "run.jsonl", evaluated_by="after training, by gradience"),
        ],
    )
    trainer.remove_callback(PrinterCallback)  # standard output belongs to results
    with resume.library_write_errors(output):
        seconds = resume.run_from_newest(trainer, journal, output / resume.CHECKPOINTS)
        store(network, output / ADAPTER, base.name)
    assert journal.started is not None  # there is no training without a first step
    loss = resume.last_loss(trainer.state.log_history, recipe.logging_steps)
    TrainingReport(
        base=path_text(base.name),
        base_fingerprint=base.fingerprint,
        base_params=base.parameters,
        dtype=base.dtype,
        quantization=base.quantization,
        device=base.device,
        processes=1,
        threads=torch.get_num_threads(),
        start=Start(
            seed=seed,
            streams={name: stream(seed, name) for name in STREAMS},
            initial_adapter_sha256=journal.started.initial,
            first_batch_sha256=journal.started.first_batch,
        ),
        lora=dict(lora),
        recipe=recipe.model_dump(mode="json"),
        trained=trained,
        examples=data,
        sequences_per_step=args.train_batch_size * args.gradient_accumulation_steps,
        steps=trainer.state.global_step,
        planned_steps=trainer.state.max_steps,
        loss=loss,
        diverged=loss is None,
        lora_params=weights.lora_params,
        other_params=weights.other_params,
        adapter_sha256=sha256_file(output / ADAPTER / "adapter_model.safetensors"),
        seconds=seconds,
        peak_memory_bytes=peak(),
        resumed_from=journal.started.resumed,
        earlier=journal.started.earlier,
        versions=versions(),
        run=watch.run_info(),
    ).save(output / REPORT)
    resume.clear(output)
    return TrainingReport.read(output / REPORT)


class _Watch(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Notes the first batch, stops a training whose loss is no longer a number, and reports steps.

    The mean loss since the last log is not part of a checkpoint. So it is logged whenever one is saved, and at the end:
    then a training that was resumed reports the loss of one that was not. After the last step no checkpoint is saved:
    resumed from there, the Trainer would take a further step.
    """

    def __init__(self, collator: Collator, journal: resume.TrainingJournal, on_step: Progress | None) -> None:
        self.collator, self.journal, self.on_step = collator, journal, on_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1 and self.collator.first_batch:
            self.journal.begin(self.collator.first_batch)
        is_last = state.global_step >= state.max_steps
        control.should_log |= control.should_save or is_last
        control.should_save &= not is_last
        if self.on_step is not None:
            self.on_step(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not math.isfinite(kwargs["logs"].get("loss", 0.0)):
            control.should_training_stop, control.should_save = True, False


def versions() -> dict[str, str]:
    """Return the versions of the libraries that can move a weight."""
    return {name: metadata.version(name) for name in ("torch", "transformers", "peft", "accelerate")}
