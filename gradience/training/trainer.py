"""Train one LoRA adapter: seeded before anything is drawn, resumable, recorded. The only trainer of the project.

Hugging Face's Trainer does the steps, PEFT the adapter, GradienceCallback the telemetry. What is ours is the
order of things: every random stream has a seed of its own (seeds.py) that is set before its draw, the loss is
on the response alone (batches.py), and what was started from and what came out is written down.

On one machine, with the same number of threads and the same versions, the same call gives the same bytes.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from gradience.artifacts.run import Stopwatch
from gradience.artifacts.training import Start, TrainedExamples, TrainingReport
from gradience.artifacts.whole import whole_folder
from gradience.digests import Sha256, sha256_file
from gradience.errors import InputError, UsageError
from gradience.evaluate.identity import device_name
from gradience.live.hooks import GradienceCallback
from gradience.models.devices import choose_device, make_current, processes_here
from gradience.models.load import Base, load_base
from gradience.models.settings import ModelSettings, several_processes
from gradience.tasks.base import ClassificationTask, Task
from gradience.tasks.examples import fingerprint
from gradience.training.checkpoints import MarkComplete, last_loss
from gradience.training.devices import OneDevice, accelerate_on, accumulation, sequences_per_step
from gradience.training.encode import Collator, Encoded, encode_labelled, encode_questions
from gradience.training.journal import Journal
from gradience.training.memory import watch_peak
from gradience.training.resume import ADAPTER, CHECKPOINTS, JOURNAL, REPORT, clear, finished, run_from_newest
from gradience.training.seeds import STREAMS, stream
from gradience.training.settings import LoraSettings, TrainSettings

Trained = Literal["lora", "head"]
OnStep = Callable[[int, int], None]
"""Called after a step with the number of steps done and planned."""


def lora_arguments(settings: LoraSettings) -> dict[str, Any]:
    """The probe's arguments of PEFT's LoraConfig."""
    arguments = {
        "r": settings.probe_r,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": settings.target_modules,
        "use_rslora": settings.use_rslora,
        "use_dora": settings.use_dora,
        "modules_to_save": settings.modules_to_save,
    }
    return {key: value for key, value in arguments.items() if value not in (None, False)}


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
    on_step: OnStep | None = None,
) -> TrainingReport:
    """Train an adapter on the task's train examples and write it to `output`/adapter, with `training.json`.

    `lora` are arguments of PEFT's LoraConfig, a full `rank_pattern` and `alpha_pattern` among them. With
    `trained="head"` the LoRA stays at B = 0: the control that says what a classifier's head is worth alone.
    A call whose process was killed goes on from the last complete checkpoint in `output` (`recipe.save_steps`);
    a call that had finished returns its report. Several processes (torchrun, accelerate launch) share the batch.
    `output` holds `run.jsonl` too, the telemetry.

    Raises InputError or NetworkError when the base cannot be loaded, InputError when `output` holds another
    training (`other-training`), UsageError when task and model do not fit together (`task-model`), and for devices and
    processes that cannot be had (`no-device`, `processes`, `effective-batch`).
    """
    watch = Stopwatch(command="train")
    labels = labels_of(task, model)
    if problem := several_processes(model, processes_here()):
        raise UsageError(problem, code="processes", hint="or leave model.quantization out")
    asked: dict[str, Any] = {
        "lora": dict(lora),
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "trained": trained,
    }
    if (output / REPORT).is_file():
        return finished(output, asked)
    output.mkdir(parents=True, exist_ok=True)
    peak = watch_peak(choose_device(device))
    base = load_base(model, labels=labels, seed=stream(seed, "base"), device=device)
    network = _wrap(base, lora, model, seed, labels=labels, trained=trained)
    examples = task.examples.of("train", recipe.train_samples)
    encoded = encode(base.tokenizer, task, examples, recipe.max_length)
    lora_params, other_params, initial = _trainable(network)
    data = fingerprint(examples)
    decides = asked | {"base": base.fingerprint, "data": data}
    journal = Journal(output / JOURNAL, decides, initial, _numerics(base))

    collator = Collator(base.tokenizer)
    trainer = Trainer(
        model=network,
        args=_arguments(recipe, output / CHECKPOINTS, seed, base, model.gradient_checkpointing),
        train_dataset=encoded.features,  # a list has all that a data set needs: a length, and places
        data_collator=collator,
        callbacks=[
            MarkComplete(),
            _Watch(collator, journal, on_step),
            # Whoever trains through here evaluates the finished adapter, Bench first of all.
            GradienceCallback(output / "run.jsonl", evaluated_by="after training, by gradience"),
        ],
    )
    trainer.remove_callback(PrinterCallback)  # standard output belongs to results
    sequences = sequences_per_step(trainer.args, recipe)
    seconds = run_from_newest(trainer, journal, output / CHECKPOINTS)
    if trainer.is_world_process_zero():
        assert journal.started is not None  # there is no training without a first step
        _store(network, output / ADAPTER, base.name)
        loss = last_loss(trainer.state.log_history, recipe.logging_steps)
        TrainingReport(
            base=base.name,
            base_fingerprint=base.fingerprint,
            base_params=base.parameters,
            dtype=base.dtype,
            quantization=base.quantization,
            device=base.device,
            processes=trainer.args.world_size,
            sequences_per_step=sequences,
            threads=torch.get_num_threads(),
            lora=dict(lora),
            recipe=asked["recipe"],
            trained=trained,
            examples=TrainedExamples(
                task=task.name,
                n=len(encoded.features),
                sha256=data,
                truncated=encoded.truncated,
                left_out=encoded.left_out,
                tokens=encoded.tokens,
            ),
            start=Start(
                seed=seed,
                streams={name: stream(seed, name) for name in STREAMS},
                initial_adapter_sha256=journal.started.initial,
                first_batch_sha256=journal.started.first_batch,
            ),
            steps=trainer.state.global_step,
            planned_steps=trainer.state.max_steps,
            loss=loss,
            diverged=loss is None,
            resumed_from=journal.started.resumed,
            earlier=journal.started.earlier,
            lora_params=lora_params,
            other_params=other_params,
            adapter_sha256=sha256_file(output / ADAPTER / "adapter_model.safetensors"),
            versions=versions(),
            seconds=seconds,
            peak_memory_bytes=peak(),
            run=watch.run_info(),
        ).save(output / REPORT)
        clear(output)
    trainer.accelerator.wait_for_everyone()
    return TrainingReport.read(output / REPORT)


def _numerics(base: Base) -> dict[str, Any]:
    """What may change the last bits of a training, and is no reason to throw it away."""
    return {
        "device": device_name(base.model.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def labels_of(task: Task, model: ModelSettings) -> int | None:
    """The number of labels; None for a task whose answers are generated. Raises UsageError (`task-model`)."""
    classifies = isinstance(task, ClassificationTask)
    if classifies != (model.type == "seqcls"):
        raise UsageError(
            f"model.type is {model.type}, and the task {task.name} needs"
            f" {'seqcls' if classifies else 'causal_lm'}",
            code="task-model",
            hint="change model.type, or choose another task",
        )
    return len(task.label_names) if isinstance(task, ClassificationTask) else None


def _wrap(
    base: Base,
    lora: Mapping[str, Any],
    settings: ModelSettings,
    seed: int,
    *,
    labels: int | None,
    trained: str,
) -> Any:
    """The base with fresh LoRA factors (B = 0), drawn right after their stream's seed is set."""
    from peft import LoraConfig, get_peft_model

    set_seed(stream(seed, "lora"))
    # A copy: PEFT extends the list `modules_to_save` that it is given.
    config = LoraConfig(task_type="CAUSAL_LM" if labels is None else "SEQ_CLS", **copy.deepcopy(dict(lora)))
    network = get_peft_model(base.model, config)
    if settings.gradient_checkpointing:
        network.enable_input_require_grads()
    if trained == "head":
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight.requires_grad_(False)
    return network


def encode(tokenizer: Any, task: Task, examples: Sequence[Any], max_length: int) -> Encoded:
    """The examples as features. Raises InputError (`no-examples`) when none fits."""
    how = encode_labelled if isinstance(task, ClassificationTask) else encode_questions
    encoded = how(tokenizer, examples, max_length)
    if not encoded.features:
        raise InputError(
            f"{task.name}: there is nothing to train on: {len(examples)} train examples,"
            f" {encoded.left_out} of them longer than {max_length} tokens",
            code="no-examples",
            hint="raise train.max_length, or give more data",
        )
    return encoded


def _trainable(network: Any) -> tuple[int, int, str]:
    """Parameters of the LoRA factors and of the rest that is stored, and sha256 over names and bytes of both."""
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
    return lora, other, digest.hexdigest()


def _arguments(recipe: TrainSettings, folder: Path, seed: int, base: Base, checkpointing: bool) -> OneDevice:
    """The recipe in the Trainer's words."""
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
        "gradient_accumulation_steps": accumulation(recipe),
        "bf16": recipe.bf16,
        "logging_steps": recipe.logging_steps,
        "logging_nan_inf_filter": False,  # a loss that is no number must be seen
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
        made = OneDevice(place=base.device, **arguments)
        assert made.device == device  # asked here: the first who asks sets up accelerate
    make_current(device)  # transformers has just made the first GPU the current one
    return made


class _Watch(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Notes the first batch, stops a training whose loss is no number any more, and reports steps.

    The mean loss since the last log is not part of a checkpoint. So it is logged whenever one is saved, and at the end:
    then a training that was resumed reports the loss of one that was not.
    """

    def __init__(self, collator: Collator, journal: Journal, on_step: OnStep | None) -> None:
        self.collator, self.journal, self.on_step = collator, journal, on_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1 and state.is_world_process_zero and self.collator.first_batch:
            self.journal.begin(self.collator.first_batch)
        if control.should_save or state.global_step >= state.max_steps:
            control.should_log = True
        if self.on_step is not None:
            self.on_step(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not math.isfinite(kwargs["logs"].get("loss", 0.0)):
            control.should_training_stop = True


def _store(network: Any, folder: Path, base_name: str) -> None:
    """Write the adapter whole, with PEFT. The base's name replaces the folder of this machine's cache."""
    with whole_folder(folder, force=True) as scratch:
        network.save_pretrained(scratch)
        config_path = scratch / "adapter_config.json"
        config = json.loads(config_path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base_name}
        if isinstance(config["target_modules"], list):  # a set in PEFT, written in no fixed order
            config["target_modules"].sort()
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (scratch / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def versions() -> dict[str, str]:
    """The libraries whose version can move a weight."""
    return {name: metadata.version(name) for name in ("torch", "transformers", "peft", "accelerate")}
