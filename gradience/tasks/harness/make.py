"""A task of lm-eval as one of ours: its four output types are prompts to answer, choices, and likelihoods."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any

from pydantic import Field

from gradience.errors import InputError, UsageError
from gradience.reports.bench_plan import Role
from gradience.tasks.base import ChoiceTask, GenerationTask, LikelihoodTask, Task
from gradience.tasks.examples import Examples, PromptExample, content_id, prepare, with_dev
from gradience.tasks.harness.choices import behind_the_blank, choice_task
from gradience.tasks.harness.definition import Definition
from gradience.tasks.harness.library import load, unusable, unusable_errors
from gradience.tasks.harness.rule import HarnessRule, filters_of, metric_of

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the longest output, as lm-eval reads them: the first that is given counts."""
MOST_TOKENS = 256
"""Where none is given, as lm-eval's."""
GREEDY = {"do_sample": (False, None), "temperature": (0, 0.0, None), "num_beams": (1, None)}
"""What generation settings may say: everything else is not what a greedy answer is."""
IDLE = {"until", "top_p", "top_k", *LENGTHS, *GREEDY}
"""Settings that are read, or change nothing in a greedy answer."""


def maker(definition: Definition, *, training: bool) -> Callable[..., Task]:
    """Return the function that makes the task; its keyword parameters are the task's options.

    training: whether train examples are needed as well.
    """

    def make(
        *,
        num_fewshot: Annotated[int, Field(ge=0)] | None = None,
        metric: str | None = None,
        filter: str | None = None,
        dev: Annotated[int, Field(ge=0)] | None = None,
    ) -> Task:
        return Making(definition, num_fewshot, metric, filter).task(training=training, dev=dev)

    return make


class Making:
    """One task on its way to ours."""

    def __init__(
        self, definition: Definition, num_fewshot: int | None, metric: str | None, wanted_filter: str | None
    ) -> None:
        """Load it, and see what decides."""
        self.definition, self.profile = definition, definition.profile
        self.harness = load(definition, num_fewshot)
        self.output_type = str(self.harness.OUTPUT_TYPE)
        if self.harness.get_config("doc_to_image") or self.harness.get_config("doc_to_audio"):
            raise self._refused("its documents hold images or sounds")
        if (self.harness.get_config("repeats") or 1) > 1:
            raise self._refused("it asks for several samples of each answer, and decoding is greedy here")
        self.metric = metric_of(self.harness, self.profile, metric)
        self.filters = filters_of(self.harness, self.profile, wanted_filter)

    def task(self, *, training: bool, dev: int | None) -> Task:
        """Return the task: its test documents, or validation where there are none, and train where it is wanted.

        Raises InputError (`task-harness`, `task-empty`: it has no training documents).
        """
        confirm = list(self._requests(self.harness.eval_docs, self.harness.get_config("num_fewshot")))
        train: list[tuple[str, Sequence[Any]]] = []
        if training:
            if not self.harness.has_training_docs():
                raise InputError(
                    f"{self.profile}: has no training documents, and Bench trains a probe",
                    code="task-empty",
                    hint=f"compare adapters that you have: gradience evaluate … --task {self.profile}",
                )
            train = list(self._requests(self.harness.training_docs(), 0))
        kinds: Mapping[str, Callable[..., Task]] = {
            "generate_until": self._generation,
            "multiple_choice": self._choices,
            "loglikelihood": self._likelihoods,
            "loglikelihood_rolling": self._likelihoods,
        }
        if self.output_type not in kinds:
            raise self._refused(f"its output type is {self.output_type}")
        return kinds[self.output_type](confirm, train, dev)

    def _named(self, scored_by: str) -> dict[str, Any]:
        """Name, way of scoring and sources, as every kind of task has them."""
        config, release = self.harness.config, version("lm_eval")
        shots = self.harness.get_config("num_fewshot")
        data = " ".join(filter(None, [config.dataset_path, config.dataset_name]))
        return {
            "name": f"lm_eval:{config.task}",
            "scored_by": f"lm-eval {release}, {scored_by}, {shots}-shot, {self.definition.sha256[:16]}",
            "source": {
                "confirm": f"{data} {config.test_split or config.validation_split}",
                "definition": f"{self.definition.path.name} sha256:{self.definition.sha256}",
                "lm_eval": release,
            },
        }

    # ------------------------------------------------------------ documents

    def _requests(self, documents: Any, shots: int) -> Iterator[tuple[str, list[Any]]]:
        """An identity of its own, and lm-eval's requests, for each document in its order."""
        seen: Counter[str] = Counter()
        task = self.harness
        try:
            for number, doc in enumerate(documents):
                context = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
                requests = task.construct_requests(
                    doc=doc, ctx=context, metadata=(task.config["task"], number, 1)
                )
                key = content_id(json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str), exact=True)
                seen[key] += 1
                yield (
                    key if seen[key] == 1 else f"{key}#{seen[key]}",
                    requests if isinstance(requests, list) else [requests],
                )
        except unusable_errors() as error:
            raise unusable(self.profile, error) from None

    def _examples(
        self,
        confirm: Sequence[tuple[str, Any]],
        train: Sequence[tuple[str, Any]],
        dev: int | None,
        make: Callable[[str, Any, Role], Any],
    ) -> Examples[Any]:
        """All test documents, in lm-eval's order, repeated ones too; of train what is not among them, once each."""
        tested = [make(key, requests, "confirm") for key, requests in confirm]
        counts = {"rows": len(confirm), "duplicates": 0, "conflicts": 0}
        if not train:
            return Examples(tuple(tested), counts)
        known = {key for key, _ in confirm}
        trained: list[Any] = [make(key, requests, "train") for key, requests in train if key not in known]
        left: Examples[Any] = with_dev(prepare(trained), dev)
        counts |= {"rows": len(confirm) + len(train), "duplicates": len(train) - len(left.all)}
        return Examples((*tested, *left.all), counts)

    # ------------------------------------------------------------ output types

    def _generation(self, confirm: Sequence[Any], train: Sequence[Any], dev: int | None) -> GenerationTask:
        settings = confirm[0][1][0].arguments[1] if confirm else {}
        for name, value in settings.items():
            if name not in IDLE or value not in GREEDY.get(name, (value,)):
                raise self._refused(f"it generates with `{name}: {value}`, and decoding is greedy here")
        until = settings.get("until") or []
        rule = self._rule([*confirm, *train])

        def make(key: str, requests: Any, role: Role) -> PromptExample:
            gold = self._target(requests[0].doc)
            response = f"{self.harness.config.target_delimiter}{gold}"
            return PromptExample(key, requests[0].arguments[0], response, gold, role)

        self._try(rule, confirm, lambda requests: [self._target(requests[0].doc)])
        if train:
            key, requests = confirm[0]
            first = make(key, requests, "confirm")
            if not rule(first.id, [first.response]).correct:
                raise InputError(
                    f"{self.profile}: its own answer {first.response[:80]!r}, which is trained, would be scored wrong",
                    code="task-answer",
                    hint="add a filter to the task, such as `remove_whitespace`, or choose one: --option filter=NAME",
                )
        return GenerationTask(
            examples=self._examples(confirm, train, dev, make),
            filters={},
            same=str.__eq__,
            decide=rule,
            max_new_tokens=next((int(settings[name]) for name in LENGTHS if settings.get(name)), MOST_TOKENS),
            stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
            **self._named(f"{self.metric} by {self.filters[0]}"),
        )

    def _target(self, doc: Any) -> str:
        """The gold answer as a text; of several the first."""
        target = self.harness.doc_to_target(doc)
        if isinstance(target, int) and self.harness.get_config("doc_to_choice") is not None:
            target = self.harness.doc_to_choice(doc)[target]
        return str(target[0] if isinstance(target, list) and target else target)

    def _try(self, rule: HarnessRule, confirm: Sequence[Any], respond: Callable[[Any], list[Any]]) -> None:
        """Decide about one document before a model is loaded. Raises InputError (`task-harness`, `task-metric`)."""
        if self.definition.values is None:  # a function of somebody's may not bear what no model has written
            return
        try:
            for key, requests in confirm[:1]:
                rule(key, respond(requests))
        except unusable_errors() as error:
            raise unusable(self.profile, error) from None

    def _rule(self, confirm: Sequence[tuple[str, Any]]) -> HarnessRule:
        return HarnessRule(self.harness, self.profile, self.metric, self.filters, dict(confirm))

    def _choices(self, confirm: Sequence[Any], train: Sequence[Any], dev: int | None) -> ChoiceTask:
        task, make = choice_task(self.harness, self.metric, confirm, self._rule(confirm))
        if task.get("decide") is not None:
            self._try(task["decide"], confirm, lambda requests: [(-1.0, False)] * len(requests))
        if task.get("decide") is not None and train:
            raise self._refused(
                f"its `{self.metric}` cannot be counted again from the likelihoods of its choices, as Bench does"
            )
        return ChoiceTask(
            examples=self._examples(confirm, train, dev, make), **task, **self._named(self.metric)
        )

    def _likelihoods(self, confirm: Sequence[Any], train: Sequence[Any], dev: int | None) -> LikelihoodTask:
        rolling = self.output_type == "loglikelihood_rolling"
        exact = not rolling and self.metric == "acc" and self.harness.get_config("process_results") is None

        def make(key: str, requests: Any, role: Role) -> PromptExample:
            arguments = requests[0].arguments
            prompt, response = ("", *arguments) if rolling else behind_the_blank(*arguments)
            if not response:
                raise unusable(
                    self.profile, ValueError(f"the text of document {requests[0].doc_id} is empty")
                )
            return PromptExample(key, prompt, response, response.strip(), role)

        return LikelihoodTask(
            examples=self._examples(confirm, train, dev, make),
            decide_by="exact" if exact else "nll",
            end=False,
            rolling=rolling,
            **self._named("acc" if exact else "nll"),
        )

    def _refused(self, why: str) -> UsageError:
        return UsageError(
            f"{self.profile}: {why}", code="task-unsupported", hint="evaluate it with lm-eval itself"
        )
