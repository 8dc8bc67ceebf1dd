"""GradienceCallback: observes a training and writes run.jsonl, without affecting or breaking the training.

The Trainer calls hooks without protection, so an exception in a hook would end the training. Every hook here
is therefore guarded: an exception is logged with its traceback, the callback disables itself, and training
continues.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import math
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import TrainerCallback

from gradience.errors import InputError, is_number
from gradience.live import SpectralTracker
from gradience.ranks import scale_of
from gradience.telemetry import RunStatus, TelemetryWriter, last_position
from gradience.telemetry.records import REWARDS, method_of
from gradience.telemetry.writer import status_of

logger = logging.getLogger(__name__)

STEP_FIELDS = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm", "epoch": "epoch"}
"""Trainer's field name -> run.jsonl's. Other numbers keep their names."""

Hook = TypeVar("Hook", bound=Callable[..., None])


def guarded(hook: Hook) -> Hook:
    """Return a hook that cannot raise and returns None (anything else would replace the Trainer's control)."""

    @functools.wraps(hook)
    def safe(
        self: GradienceCallback,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        # Only one process of a distributed run writes.
        if self._off or not state.is_world_process_zero:
            return
        try:
            hook(self, args, state, control, **kwargs)
        except Exception:  # noqa: BLE001  (the boundary: see the module's docstring; the log has the traceback)
            self._switch_off(hook.__name__)

    return safe  # type: ignore[return-value]


class GradienceCallback(TrainerCallback):
    """Write run.jsonl next to the checkpoints: configuration, losses, evaluations, and live LoRA spectra.

    >>> callback = GradienceCallback(spectra_every=20)  # Trainer(..., callbacks=[callback])

    output: file to append to (default: `<output_dir>/run.jsonl`).
    notes: a note of your own, recorded with the configuration.
    spectra_every: measure the LoRA modules at the first logging step, then every N logging steps, and at the end; 0
    turns this off.
    sinks: trackers that also get the spectra: 'tensorboard', 'wandb', 'mlflow', 'trackio'; () for none (default: those
    in the Trainer's `report_to`).
    evaluated_by: external evaluation, if the Trainer does not evaluate, such as "lm-eval, after training". It is
    recorded, and `gradience monitor` then does not ask for an evaluation.
    """

    def __init__(
        self,
        output: str | os.PathLike[str] | None = None,
        *,
        notes: str | None = None,
        spectra_every: int = 10,
        sinks: Iterable[str] | None = None,
        evaluated_by: str | None = None,
    ) -> None:
        if spectra_every < 0:
            raise ValueError("spectra_every is a number of logging steps, or 0 for never")
        self._output = Path(output) if output is not None else None
        self._notes = notes
        self._spectra_every = spectra_every
        self._sink_names = tuple(sinks) if sinks is not None else None
        self._evaluated_by = evaluated_by
        self._off = False
        self._trained = False
        self._left: weakref.finalize[..., GradienceCallback] | None = None
        self._run_id: str | None = None
        self._run: TelemetryWriter | None = None
        self._reset()

    def _reset(self) -> None:
        """Reset the state of one training."""
        self._tracker: SpectralTracker | None = None
        self._sinks: dict[str, Sink] = {}
        self._training = False
        self._logs = 0
        self._measured_at = -1
        self._recent_losses: list[float] = []
        self._end: dict[str, Any] = {}

    # ------------------------------------------------------------------ hooks

    @guarded
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        if self._training:
            self._finish(RunStatus.ERROR, "train() ended early", step=None)
        self._reset()
        resumed = state.global_step or None
        # A resumed run keeps its id, as does a run whose model was evaluated before; other runs get a new one.
        run_id = None if self._trained else self._run_id
        if resumed is not None:
            run_id, _ = last_position(self._file(args)) or (None, None)
        run = self._open(args, run_id)
        self._trained = True
        rows: Any = getattr(kwargs.get("train_dataloader"), "dataset", None)
        config = describe_run(args, state, model) | {
            "trainer": {"arguments": class_names(args)[0], "bases": class_names(args)[1:]},
            "notes": self._notes,
            "evaluated_by": self._evaluated_by,
            "data": {"train_rows": len(rows) if hasattr(rows, "__len__") else None},
        }
        run.start(config, meta=_versions(), resumed_from_step=resumed)
        self._training = True
        self._left = weakref.finalize(self, _record_left_run, run)
        if self._spectra_every:
            try:
                self._tracker = SpectralTracker(model)
                run.metrics("lora_modules", state.global_step, self._tracker.modules())
            except InputError as error:  # nothing to measure is a fact about the run, not a failure
                logger.info("%s", error)
        names = args.report_to if self._sink_names is None else self._sink_names
        self._sinks = open_sinks(
            [names] if isinstance(names, str) else names or (), Path(args.output_dir or ".")
        )

    @guarded
    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._run is None or not self._training:
            return
        numbers = {key: float(value) for key, value in kwargs["logs"].items() if is_number(value)}
        if "loss" in numbers:
            self._log_step(state, numbers)
        elif "train_runtime" in numbers:
            # The Trainer's last log. Trackers close their runs in on_train_end, before this callback's
            # turn comes, so the last measurement has to be made here.
            self._end = numbers
            if self._tracker is not None and self._measured_at != state.global_step:
                self._measure(state.global_step)
        elif not any(key.startswith(("eval_", "test_")) for key in numbers):
            self._run.metrics("trainer_log", state.global_step, numbers)

    @guarded
    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        metrics: Mapping[str, Any] = kwargs["metrics"]
        model: nn.Module | None = kwargs.get("model")
        run = self._run or self._open(args, self._run_id)
        split = next((k.removesuffix("_runtime") for k in metrics if k.endswith("_runtime")), "eval")
        values = {
            key.removeprefix(f"{split}_"): float(value) for key, value in metrics.items() if is_number(value)
        }
        loss = values.get("loss")
        method = method_of(class_names(args), rewarded=not REWARDS.isdisjoint(values))
        if loss is not None and method != "reinforcement":  # whose losses are not comparable
            if method == "supervised" and model is not None and is_language_model(model):
                values["ppl"] = math.exp(min(loss, 700.0))
            if self._recent_losses:
                values["train_loss"] = sum(self._recent_losses) / len(self._recent_losses)
                values["gap"] = loss - values["train_loss"]
        self._recent_losses = []
        run.eval(state.global_step, values, split=split)
        if not self._training:  # an evaluation before or after train()
            run.close()
            self._run = None

    @guarded
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._training:
            return
        early = state.max_steps > 0 and state.global_step < state.max_steps
        reason = f"stopped at step {state.global_step} of {state.max_steps}" if early else None
        self._finish(
            RunStatus.OK,
            reason,
            step=state.global_step,
            best_metric=state.best_metric,
            best_step=state.best_global_step,
            **self._end,
        )

    # ------------------------------------------------------------------ recording

    def _file(self, args: TrainingArguments) -> Path:
        return self._output or Path(args.output_dir or ".") / "run.jsonl"

    def _open(self, args: TrainingArguments, run_id: str | None) -> TelemetryWriter:
        """Append to the run's file."""
        if self._run is None:
            self._run = TelemetryWriter(self._file(args), run_id=run_id)
            self._run_id = self._run.run_id
        return self._run

    def _log_step(self, state: TrainerState, numbers: dict[str, float]) -> None:
        assert self._run is not None  # checked by on_log
        values = {STEP_FIELDS.get(key, key): value for key, value in numbers.items()}
        self._run.train_step(state.global_step, **values)
        self._recent_losses.append(numbers["loss"])
        self._logs += 1
        if self._tracker is not None and (self._logs == 1 or self._logs % self._spectra_every == 0):
            self._measure(state.global_step)

    def _measure(self, step: int) -> None:
        assert self._run is not None  # only called while a run is open ...
        assert self._tracker is not None  # ... and has LoRA modules
        metrics = self._tracker.measure(step).to_metrics()
        self._measured_at = step
        self._run.metrics("lora_spectra", step, metrics)
        self._send(chart_values(metrics["summary"]), step)

    def _send(self, values: Mapping[str, float], step: int) -> None:
        """Send to every tracker. A tracker that fails is dropped; the others and run.jsonl continue."""
        for name, sink in list(self._sinks.items()):
            try:
                sink.send(values, step)
            except (
                Exception
            ):  # a tracker may raise anything, and must not stop run.jsonl; the log has its traceback
                del self._sinks[name]
                logger.warning("Gradience no longer reports to %s", name, exc_info=True)

    def _finish(self, status: RunStatus, reason: str | None, *, step: int | None, **facts: Any) -> None:
        self._training = False
        if self._left is not None:
            self._left.detach()
        for name, sink in self._sinks.items():
            try:
                sink.close()
            except Exception:  # a tracker's failure must not keep the end out of run.jsonl
                logger.warning("Gradience could not end its part of %s", name, exc_info=True)
        if self._run is not None:
            run, self._run = self._run, None
            try:
                run.end(status, step=step, reason=reason, **facts)
            finally:
                run.close()

    def _switch_off(self, hook: str) -> None:
        """Log one warning with the traceback, and disable all hooks."""
        self._off, self._training = True, False
        if self._left is not None:
            self._left.detach()
        logger.warning(
            "Gradience disabled itself in %s; training continues without telemetry", hook, exc_info=True
        )
        run, self._run = self._run, None
        if run is not None:
            with contextlib.suppress(OSError):
                run.close()


def _record_left_run(run: TelemetryWriter) -> None:
    """Record how a run ended if the process exits, or drops the callback, during a training.

    (SIGKILL and SIGTERM do not reach this.) Holds only a reference to the writer, so that no model is kept in
    memory.
    """
    error = type(sys.last_exc) if hasattr(sys, "last_exc") else getattr(sys, "last_type", None)
    try:
        status = status_of(error) if error else RunStatus.INTERRUPTED
        run.end(status, reason=error.__name__ if error else "the process ended")
        run.close()
    except Exception:  # at exit nothing can catch it, and it must not change the exit code
        logger.warning("Gradience could not record the end of the run", exc_info=True)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from gradience import __version__

    names = ("torch", "transformers", "peft")
    return {"framework": "huggingface", "gradience": __version__} | {name: version(name) for name in names}


# ---------------------------------------------------------------- the config of run_start
# An allow-list: no other argument is recorded. docs/train_and_monitor.md lists all fields.


LANGUAGE_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
LANGUAGE_CLASSES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSeq2SeqLM")


def describe_run(args: TrainingArguments, state: TrainerState, model: nn.Module) -> dict[str, Any]:
    """Return the fields of the config that come from the arguments, the state and the model."""
    base = _base(model)
    return {
        "model_name": base["name"],
        "task_profile": task_type(model),
        "optimizer": {"name": _name(args.optim), "lr": args.learning_rate, "weight_decay": args.weight_decay},
        "lora": _lora(model),
        "training": {
            "seed": args.seed,
            "batch_size": args.per_device_train_batch_size,
            "gradient_accumulation": args.gradient_accumulation_steps,
            "world_size": args.world_size,
            "effective_batch_size": args.train_batch_size
            * args.gradient_accumulation_steps
            * args.world_size,
            "max_steps": state.max_steps,
            "epochs": args.num_train_epochs,
            "dtype": "bf16" if args.bf16 else "fp16" if args.fp16 else None,
            "schedule": _name(args.lr_scheduler_type),
            "warmup_steps": args.get_warmup_steps(state.max_steps),
            "max_grad_norm": args.max_grad_norm,
            "logging_steps": args.logging_steps,
            "evaluation": _name(args.eval_strategy),
            "logging_nan_inf_filter": args.logging_nan_inf_filter,
        },
        "base": base,
    }


def _name(value: Any) -> str:
    """Return the value of an enumeration, or a plain value, as text."""
    return str(getattr(value, "value", value))


def _lora(model: nn.Module) -> dict[str, Any] | None:
    """Return the LoRA config of the trained adapter; None for a model without PEFT."""
    configs: Mapping[str, Any] | None = getattr(model, "peft_config", None)
    if not configs:
        return None
    active = getattr(model, "active_adapter", None)
    name = active if isinstance(active, str) and active in configs else next(iter(configs))
    config = configs[name]
    r, alpha = getattr(config, "r", None), getattr(config, "lora_alpha", None)
    rslora = bool(getattr(config, "use_rslora", False))
    targets = getattr(config, "target_modules", None)
    return {
        "adapter": name,
        "peft_type": _name(config.peft_type),
        "r": r,
        "alpha": alpha,
        "scale": scale_of(alpha, r, use_rslora=rslora) if r and alpha is not None else None,
        "target_modules": sorted(targets) if isinstance(targets, (set, list, tuple)) else targets,
        "dropout": getattr(config, "lora_dropout", None),
        "bias": getattr(config, "bias", None),
        "use_rslora": rslora,
        "use_dora": bool(getattr(config, "use_dora", False)),
        "init": str(getattr(config, "init_lora_weights", True)),
        "rank_pattern": dict(getattr(config, "rank_pattern", None) or {}),
        "alpha_pattern": dict(getattr(config, "alpha_pattern", None) or {}),
        "modules_to_save": list(getattr(config, "modules_to_save", None) or []),
        "trainable_params": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _base(model: nn.Module) -> dict[str, Any]:
    """Return facts about the base model: name, size, storage type and quantization."""
    config = getattr(model, "config", None)
    read: Any = config.get if isinstance(config, dict) else lambda key: getattr(config, key, None)
    dtype, quantization = read("dtype"), read("quantization_config")
    if quantization is not None:
        values: Mapping[str, Any] = (
            quantization if isinstance(quantization, Mapping) else quantization.to_dict()
        )
        bits = 4 if values.get("load_in_4bit") else 8 if values.get("load_in_8bit") else values.get("bits")
        quantization = {
            "name": "QLoRA" if bits == 4 else "LoRA on a quantized base",
            "method": _name(values.get("quant_method")),
            "bits": bits,
        }
    return {
        "name": read("_name_or_path") or read("model_type"),
        "model_type": read("model_type"),
        "hidden_size": read("hidden_size"),
        "layers": read("num_hidden_layers"),
        "dtype": str(dtype).removeprefix("torch.") if dtype is not None else None,
        "params": sum(p.numel() for p in model.parameters()),
        "quantization": quantization,
    }


def task_type(model: nn.Module) -> str | None:
    """Return PEFT's task type, e.g. CAUSAL_LM; None if it is not set."""
    configs: Mapping[str, Any] = getattr(model, "peft_config", None) or {}
    return next((_name(config.task_type) for config in configs.values() if config.task_type), None)


def is_language_model(model: nn.Module) -> bool:
    """Return True if exp(loss) is a perplexity."""
    if (task := task_type(model)) is not None:
        return task in LANGUAGE_TASKS
    get_base = getattr(model, "get_base_model", None)
    return type(get_base() if get_base else model).__name__.endswith(LANGUAGE_CLASSES)


def class_names(args: TrainingArguments) -> list[str]:
    """Return the names of the arguments' class and its base classes.

    Callbacks do not receive their Trainer, but each of TRL's trainers has its own arguments class.
    """
    return [kind.__name__ for kind in type(args).__mro__ if issubclass(kind, TrainingArguments)]


# ---------------------------------------------------------------- experiment trackers that the run already reports to
# Nothing is imported that the run does not use, no run is started and none is ended: the Trainer's own integrations do
# that, and a sink joins the run that they opened. Tags begin with `gradience/`.


CHARTS = ("energy_rank_90_p50", "energy_rank_90_p90", "stable_rank_median", "utilization_median", "fro_norm")
"""Fields of a measurement's summary that are charted."""


class Sink(NamedTuple):
    """A tracker (TensorBoard, W&B, …) that draws numbers over steps."""

    send: Callable[[Mapping[str, float], int], None]
    """Record finite numbers at a training step."""
    close: Callable[[], None] = lambda: None
    """Close what this sink opened. Most sinks use the Trainer's run and open nothing."""


def chart_values(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return tag -> value for the charted fields of a measurement's summary."""
    return {
        f"gradience/{key}": float(summary[key])
        for key in CHARTS
        if summary[key] is not None and math.isfinite(summary[key])
    }


def _tensorboard(output_dir: Path) -> Sink:
    """Scalars in a folder of their own inside the log folder that the Trainer's integration has just opened.

    TensorBoard follows one event file per folder: a second file beside the Trainer's would make it stop
    reading the first, so this is shown as a run of its own, `.../gradience`.
    """
    from torch.utils.tensorboard import SummaryWriter

    runs = output_dir / "runs"
    folders = [folder for folder in runs.iterdir() if folder.is_dir()] if runs.is_dir() else []
    newest = max(folders, key=lambda folder: folder.stat().st_mtime, default=runs)
    chosen = os.environ.get("TENSORBOARD_LOGGING_DIR")
    writer = SummaryWriter(log_dir=str((Path(chosen).expanduser() if chosen else newest) / "gradience"))

    def send(values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            writer.add_scalar(tag, value, step)
        writer.flush()

    return Sink(send, writer.close)


def _wandb(output_dir: Path) -> Sink:
    """The Weights & Biases run that is active; its x axis is the Trainer's `train/global_step`."""
    wandb = importlib.import_module("wandb")

    def send(values: Mapping[str, float], step: int) -> None:
        if wandb.run is not None:
            wandb.log({**values, "train/global_step": step})

    return Sink(send)


def _mlflow(output_dir: Path) -> Sink:
    """The MLflow run that was active when training began."""
    mlflow = importlib.import_module("mlflow")
    run = mlflow.active_run()

    def send(values: Mapping[str, float], step: int) -> None:
        if run is not None:
            mlflow.log_metrics(dict(values), step=step, run_id=run.info.run_id)

    return Sink(send)


def _trackio(output_dir: Path) -> Sink:
    """The Trackio run that is active."""
    trackio = importlib.import_module("trackio")
    return Sink(lambda values, step: trackio.log({**values, "train/global_step": step}))


SINKS: dict[str, Callable[[Path], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}


def open_sinks(names: Iterable[str], output_dir: Path) -> dict[str, Sink]:
    """Open the sinks of the known `names`."""
    return {name: SINKS[name](output_dir) for name in names if name in SINKS}
