"""Guards of a run: data sets that reveal side effects, read like those of `gradience evaluate --guard`."""

from dataclasses import replace
from pathlib import Path

from gradience.bench.config.load import BenchConfig
from gradience.errors import UsageError
from gradience.evaluate.engines import engine
from gradience.evaluate.inputs import EvaluateInputs, task_of, with_rows
from gradience.evaluate.settings import EvaluateSettings, seen_from, sets_of
from gradience.tasks.base import ClassificationTask, rendered


def read_guards(config: BenchConfig) -> tuple[EvaluateInputs, ...]:
    """Return the examples and the margin of each guard, without adapters.

    Raises UsageError (`bad-set`, `bad-margin`, `wrong-model`, `no-examples`), and what reading and the engine raise.
    """
    guards, folder = config.guards, config.task.place or Path()
    settings = EvaluateSettings(
        guards={name: seen_from(folder, guard.source) for name, guard in guards.items()},
        margin={name: guard.margin for name, guard in guards.items() if guard.margin is not None},
        options={
            f"{name}.{key}": value for name, guard in guards.items() for key, value in guard.options.items()
        },
        batch_size=config.train.per_device_eval_batch_size,
        device=config.runtime.device,
        engine=config.runtime.engine,
        with_base=True,
        folder=config.task.place,
    )
    _, *named = sets_of(settings)
    read = []
    for name, is_guard, request in named:
        request = replace(request, limit=guards[name].limit)
        task = rendered(task_of(request), config.model)
        if isinstance(task, ClassificationTask):
            raise UsageError(
                f"guards.{name}: {task.name} labels texts, and a language model needs prompts or texts",
                code="wrong-model",
                hint="give rows with prompts and answers, or text:FILE",
            )
        engine(request.engine).require(task.kind)
        inputs = EvaluateInputs(request, (), config.model, task, measures_divergence=False)
        read.append(with_rows(replace(inputs, name=name, is_guard=is_guard)))
    return tuple(read)
