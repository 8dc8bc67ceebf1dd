"""Guards of a run: data sets that reveal side effects, read like those of `gradience evaluate --guard`."""

from dataclasses import replace
from pathlib import Path

from gradience.bench.config.load import BenchConfig
from gradience.errors import UsageError
from gradience.evaluate.engines import engine
from gradience.evaluate.inputs import EvaluateInputs, task_of, with_rows
from gradience.evaluate.settings import EvaluateSettings, guards_of, seen_from, source_of
from gradience.tasks.base import ClassificationTask, rendered


def read_guards(config: BenchConfig) -> tuple[EvaluateInputs, ...]:
    """Return the examples and the margin of each guard, without adapters.

    Raises UsageError (`bad-set`, `bad-margin`, `wrong-model`, `no-examples`), and what reading and the engine raise.
    """
    folder = config.task.place or Path()
    sources = guards_of({name: seen_from(folder, guard.source) for name, guard in config.guards.items()})
    settings = EvaluateSettings(
        batch_size=config.train.per_device_eval_batch_size,
        device=config.runtime.device,
        engine=config.runtime.engine,
        with_base=True,
        folder=config.task.place,
        is_guard=True,
    )
    read = []
    for name, guard in config.guards.items():
        mine = source_of(sources[name], is_guard=True)
        mine["options"] |= guard.options
        request = replace(settings, set_name=name, margin=guard.margin, limit=guard.limit, **mine)
        task = rendered(task_of(request), config.model)
        if isinstance(task, ClassificationTask):
            raise UsageError(
                f"guards.{name}: {task.name} labels texts, and a language model needs prompts or texts",
                code="wrong-model",
                hint="give rows with prompts and answers, or text:FILE",
            )
        engine(request.engine).require(task.kind)
        read.append(with_rows(EvaluateInputs(request, (), config.model, task, measures_divergence=False)))
    return tuple(read)
