"""Tasks of lm-evaluation-harness by name, `lm_eval:NAME`, or by the YAML of one's own, `lm_eval:path/to/task.yaml`.

Documents, prompts, stops, filters and metrics are lm-eval's; the engine and the records are ours. Its output
types here are prompts to answer, choices, and whole texts. lm-eval is imported only when such a task is made. It
renders templates without a sandbox and imports the modules that a definition names. So a YAML of one's own is code,
like a Python task.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gradience.digests import sha256_parts
from gradience.errors import InputError, MissingExtra, UsageError, did_you_mean, require
from gradience.models.local_only import would_fetch
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.bench_plan import Role, TaskCode
from gradience.tasks import user_code
from gradience.tasks.base import ChoiceTask, ChooseBy, Decision, GenerationTask, LikelihoodTask, Task
from gradience.tasks.examples import ChoiceExample, Examples, PromptExample, content_id, prepare, with_dev
from gradience.tasks.rows import dataset_errors
from gradience.words import first_line

PREFIX = "lm_eval:"
EXTRA = "lm-eval"
_NAMED = re.compile(
    rb"""^["']?(task|group)["']?:[ \t]*(["']?)([^"'\n#]+?)\2[ \t]*(?:#.*)?\r?$""", re.MULTILINE
)
SEED = 1234
"""Seed for the few-shot examples, the default of lm-eval's command line."""
CORRECT = ("exact_match", "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "em")
"""Metrics of lm-eval that are 0 or 1 for each document: the first of a task's that is one of them decides."""
WAYS: dict[str, ChooseBy] = {"acc": "sum", "acc_norm": "per_character"}
"""Metrics that are our own ways of choosing."""
NOTHING = "[invalid]"
"""Result of lm-eval's filters if nothing matches."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the longest output, as lm-eval reads them: the first that is given counts."""
MOST_TOKENS = 256
"""Default maximum of generated tokens, as in lm-eval."""
GREEDY = {"do_sample": (False, None), "temperature": (0, 0.0, None), "num_beams": (1, None)}
"""Generation settings that are compatible with greedy decoding."""
IDLE = {"until", "top_p", "top_k", *LENGTHS, *GREEDY}
"""Settings that are read, or change nothing in a greedy answer."""

Documents = Mapping[str, Sequence[Any]]
"""Identity of an example -> lm-eval's requests of its document."""


@dataclass(frozen=True, slots=True)
class Definition:
    """The YAML of a task."""

    profile: str
    """As it was given."""
    path: Path
    is_file: bool
    """True if it is a file of the user's, and not one of the installed lm-eval."""

    @property
    def sha256(self) -> str:
        """Digest of the YAML and of the YAML files and modules beside it, which it may name."""
        beside = (path for pattern in ("*.yaml", "*.yml", "*.py") for path in self.path.parent.glob(pattern))
        return sha256_parts(read_file(path, MAX_SETTINGS_BYTES) for path in (self.path, *sorted(beside)))

    @property
    def code(self) -> TaskCode | None:
        """Return the code it would run; None if it comes with lm-eval."""
        return TaskCode(name=self.path.name, sha256=self.sha256) if self.is_file else None


def definition_of(profile: str, folder: Path | None = None) -> Definition:
    """Find the definition behind `lm_eval:…` without running any of it. folder: base of a relative path.

    Raises MissingExtra if a name is given and lm-eval is not installed; InputError: `task-file`, `task-unknown`.
    """
    name = profile.removeprefix(PREFIX)
    if not name.endswith((".yaml", ".yml")):
        return Definition(profile, _installed(profile, name), is_file=False)
    path = Path(name) if folder is None else folder / name
    if not path.is_file():
        raise user_code.no_such_file(profile)
    return Definition(profile, path, is_file=True)


def _installed(profile: str, name: str) -> Path:
    """The file of lm-eval that defines `name`. Raises MissingExtra, InputError (`task-unknown`, `task-group`)."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            "lm_eval is not installed",
            code="missing-extra",
            hint=f'in your clone of Gradience: pip install ".[{EXTRA}]"',
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "tasks"
    known: dict[str, tuple[Path, bool]] = {}
    # As lm-eval's own index, which takes ten times as long: sorted, the first file of a name counts.
    for path in sorted(folder.glob("**/*.yaml"), key=Path.as_posix):
        for match in _NAMED.finditer(path.read_bytes()):
            known.setdefault(match[3].decode("utf-8", "replace"), (path, match[1] == b"group"))
    if name not in known:
        raise InputError(
            f"{profile}: the installed lm-eval has no task with this name",
            code="task-unknown",
            hint=did_you_mean(name, known, "a task of your own is a file: lm_eval:path/to/task.yaml"),
        )
    path, is_group = known[name]
    if is_group:
        raise InputError(
            f"{profile}: a group of tasks, whose scores are not comparable",
            code="task-group",
            hint="name one task of the group; `lm-eval ls tasks` lists them",
        )
    return path


def harness_task(definition: Definition, num_fewshot: int | None) -> Any:
    """Return lm-eval's object of the task, its few shots seeded as on lm-eval's command line.

    Raises InputError: `task-harness` for what lm-eval cannot make a task of, `task-dataset` for data that cannot be
    read; NetworkError (`task-dataset`); UsageError (`task-option`).
    """
    manager = require("lm_eval.tasks", extra=EXTRA).TaskManager(include_defaults=False)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets: Any = require("datasets", extra="hf")
    if not definition.is_file:
        would_fetch(f"the data of {definition.profile} (from the hub)")
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with dataset_errors(definition.profile):
            loaded = manager.load(str(definition.path))
    except unusable_errors() as error:
        raise unusable(definition.profile, error) from None
    finally:
        if bars:
            datasets.enable_progress_bars()
    task = next(iter(loaded["tasks"].values()))
    if task.get_config("unsafe_code"):  # it runs what the model writes
        user_code.require_permission(
            definition.profile, TaskCode(name=definition.path.name, sha256=definition.sha256)
        )
    if num_fewshot is not None and num_fewshot != task.get_config("num_fewshot"):
        if task.get_config("num_fewshot") == 0:
            raise UsageError(
                f"{definition.profile} fixes `num_fewshot` at 0",
                code="task-option",
                hint="omit the option",
            )
        task.set_config("num_fewshot", num_fewshot)
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(SEED)
    return task


def unusable_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that lm-eval and task templates raise for an unusable task."""
    from jinja2 import TemplateError

    usual = (ValueError, TypeError, LookupError, AttributeError, AssertionError, ImportError)
    return (*usual, ArithmeticError, RecursionError, TemplateError)


def unusable(profile: str, error: Exception) -> InputError:
    """The error (`task-harness`) for what lm-eval raises."""
    return InputError(
        f"{profile}: lm-eval cannot use this task: {type(error).__name__}: {first_line(error)}",
        code="task-harness",
        hint="correct the YAML; `lm-eval validate --tasks NAME` checks one",
    )


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

    confirm: Documents
    """Test documents, or validation documents if there are none."""
    train: Documents
    dev: int | None

    def __init__(
        self, definition: Definition, num_fewshot: int | None, metric: str | None, wanted_filter: str | None
    ) -> None:
        """Load it, and see what decides. Raises UsageError (`task-option`) for a metric or filter that it lacks."""
        self.definition, self.profile = definition, definition.profile
        self.harness = harness_task(definition, num_fewshot)
        if self._config("doc_to_image") or self._config("doc_to_audio"):
            raise self._refused("its documents hold images or sounds")
        if (self._config("repeats") or 1) > 1:
            raise self._refused("it asks for several samples of each answer, and decoding is greedy here")
        metrics = list(self.harness.aggregation())
        if self._config("process_results") is None:
            self._require_known("metric", metric, metrics)
        decides = next((name for name in metrics if name in CORRECT), metrics[0] if metrics else "acc")
        self.metric = metric or decides
        filters = [ensemble.name for ensemble in self.harness._filters]
        self._require_known("filter", wanted_filter, filters)
        self.filters = tuple(sorted(filters, key=lambda name: name != wanted_filter))

    def task(self, *, training: bool, dev: int | None) -> Task:
        """Return the task, with training documents if requested.

        Raises InputError (`task-harness`, `task-empty`: it has no training documents).
        """
        self.confirm = self._requests(self.harness.eval_docs, self._config("num_fewshot"))
        self.train, self.dev = {}, dev
        if training and not self.harness.has_training_docs():
            raise InputError(
                f"{self.profile}: has no training documents, but Bench trains a probe",
                code="task-empty",
                hint=f"compare existing adapters: gradience evaluate … --task {self.profile}",
            )
        if training:
            self.train = self._requests(self.harness.training_docs(), 0)
        kinds: Mapping[str, Callable[[], Task]] = {
            "generate_until": self._generation,
            "multiple_choice": self._choices,
            "loglikelihood_rolling": self._texts,
        }
        output_type = str(self.harness.OUTPUT_TYPE)
        if output_type not in kinds:
            raise self._refused(f"its output type is {output_type}")
        return kinds[output_type]()

    def _config(self, key: str) -> Any:
        return self.harness.get_config(key)

    def _require_known(self, kind: str, wanted: str | None, known: Sequence[str]) -> None:
        if wanted is not None and wanted not in known:
            raise UsageError(
                f"{self.profile} has no {kind} `{wanted}`",
                code="task-option",
                hint=did_you_mean(wanted, known, f"its {kind}s are {', '.join(known)}"),
            )

    def _refused(self, why: str) -> UsageError:
        return UsageError(
            f"{self.profile}: {why}", code="task-unsupported", hint="evaluate it with lm-eval itself"
        )

    # ------------------------------------------------------------ documents

    def _requests(self, documents: Any, shots: int) -> dict[str, Sequence[Any]]:
        """An identity of its own, and lm-eval's requests, for each document in its order."""
        occurrences: Counter[str] = Counter()
        task = self.harness
        requested: dict[str, Sequence[Any]] = {}
        try:
            for number, doc in enumerate(documents):
                context = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
                requests = task.construct_requests(
                    doc=doc, ctx=context, metadata=(task.config["task"], number, 1)
                )
                key = content_id(json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str), exact=True)
                occurrences[key] += 1
                key = key if occurrences[key] == 1 else f"{key}#{occurrences[key]}"
                requested[key] = requests if isinstance(requests, list) else [requests]
        except unusable_errors() as error:
            raise unusable(self.profile, error) from None
        return requested

    def _examples(self, make: Callable[[str, Any, Role], Any]) -> Examples[Any]:
        """All test documents, in lm-eval's order, repeated ones too; of train what is not among them, once each."""
        tested = [make(key, requests, "confirm") for key, requests in self.confirm.items()]
        counts = {"rows": len(tested), "duplicates": 0, "conflicts": 0}
        if not self.train:
            return Examples(tuple(tested), counts)
        trained: list[Any] = [
            make(key, requests, "train") for key, requests in self.train.items() if key not in self.confirm
        ]
        left: Examples[Any] = with_dev(prepare(trained), self.dev)
        counts |= {"rows": len(tested) + len(self.train), "duplicates": len(self.train) - len(left.all)}
        return Examples((*tested, *left.all), counts)

    def _named(self, scored_by: str) -> dict[str, Any]:
        """Name, way of scoring and sources, as every kind of task has them."""
        config, release, sha256 = self.harness.config, version("lm_eval"), self.definition.sha256
        data = " ".join(filter(None, [config.dataset_path, config.dataset_name]))
        shots = self._config("num_fewshot")
        return {
            "name": f"lm_eval:{config.task}",
            "scored_by": f"lm-eval {release}, {scored_by}, {shots}-shot, {sha256[:16]}",
            "source": {
                "confirm": f"{data} {config.test_split or config.validation_split}",
                "definition": f"{self.definition.path.name} sha256:{sha256}",
                "lm_eval": release,
            },
        }

    def _rule(self, respond: Callable[[Sequence[Any]], list[Any]] | None = None) -> HarnessRule:
        """Return the scoring rule. With `respond`, the rule is tried on one document before a model is
        loaded.

        Raises InputError (`task-harness`, `task-metric`).
        """
        rule = HarnessRule(
            self.harness, self.profile, self.metric, self.filters, {**self.train, **self.confirm}
        )
        # The task's function may fail on an unusual output.
        if respond is not None and self.confirm and self._config("process_results") is None:
            key, requests = next(iter(self.confirm.items()))
            try:
                rule(key, respond(requests))
            except unusable_errors() as error:
                raise unusable(self.profile, error) from None
        return rule

    # ------------------------------------------------------------ output types

    def _generation(self) -> GenerationTask:
        first = next(iter(self.confirm.items()), None)
        settings = first[1][0].arguments[1] if first else {}
        for name, value in settings.items():
            if name not in IDLE or value not in GREEDY.get(name, (value,)):
                raise self._refused(f"it generates with `{name}: {value}`, and decoding is greedy here")
        until = settings.get("until") or []

        def gold(doc: Any) -> str:
            target = self.harness.doc_to_target(doc)
            if isinstance(target, int) and self._config("doc_to_choice") is not None:
                target = self.harness.doc_to_choice(doc)[target]
            return str(target[0] if isinstance(target, list) and target else target)

        def make(key: str, requests: Any, role: Role) -> PromptExample:
            answer = gold(requests[0].doc)
            response = f"{self.harness.config.target_delimiter}{answer}"
            return PromptExample(key, requests[0].arguments[0], response, answer, role)

        rule = self._rule(lambda requests: [gold(requests[0].doc)])
        if self.train and first:
            trained = make(*first, "confirm")
            if not rule(trained.id, [trained.response]).correct:
                raise InputError(
                    f"{self.profile}: its own answer {trained.response[:80]!r}, used for training, would be "
                    "scored wrong",
                    code="task-answer",
                    hint="add a filter to the task, such as `remove_whitespace`, or choose one: --option filter=NAME",
                )
        return GenerationTask(
            examples=self._examples(make),
            filters={},
            same=str.__eq__,
            decide=rule,
            max_new_tokens=next((int(settings[name]) for name in LENGTHS if settings.get(name)), MOST_TOKENS),
            stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
            **self._named(f"{self.metric} by {self.filters[0]}"),
        )

    def _choices(self) -> ChoiceTask:
        """Return the choices after one prompt, or one text after several prompts.

        If lm-eval's rule equals one of Gradience's, Gradience's is used, so the records suffice to count
        again.
        """
        task = self.harness
        named = self._named(self.metric)
        if self.metric in WAYS and all(map(self._is_plain, self.confirm.values())):

            def plain(key: str, requests: Any, role: Role) -> ChoiceExample:
                prompt, doc = requests[0].arguments[0], requests[0].doc
                bare, label = prompt.rstrip(), _label(task, doc)
                assert label is not None
                before = prompt[len(bare) :] + task.config.target_delimiter
                return ChoiceExample(key, bare, tuple(task.doc_to_choice(doc)), label, role, before)

            return ChoiceTask(examples=self._examples(plain), choose_by=WAYS[self.metric], **named)
        rule = self._rule(lambda requests: [(-1.0, False)] * len(requests))
        if self.train:
            raise self._refused(
                f"its `{self.metric}` cannot be counted again from the likelihoods of its choices, as Bench does"
            )

        def pairs(key: str, requests: Any, role: Role) -> ChoiceExample:
            doc = requests[0].doc
            choices = tuple(map(str, task.doc_to_choice(doc)))
            given = tuple(behind_the_blank(*request.arguments) for request in requests)
            return PairsExample(key, given[0][0], choices, _label(task, doc) or 0, role, given=given)

        return ChoiceTask(examples=self._examples(pairs), decide=rule, **named)

    def _is_plain(self, requests: Sequence[Any]) -> bool:
        """Return True for one prompt, one choice per request, and exactly one correct choice."""
        task, doc = self.harness, requests[0].doc
        if self._config("process_results") is not None or task.multiple_input or task.multiple_target:
            return False
        choices = task.doc_to_choice(doc)
        return len(requests) == len(choices) and all(choices) and _label(task, doc) is not None

    def _texts(self) -> LikelihoodTask:
        def make(key: str, requests: Any, role: Role) -> PromptExample:
            (text,) = requests[0].arguments
            if not text:
                empty = ValueError(f"the text of document {requests[0].doc_id} is empty")
                raise unusable(self.profile, empty)
            return PromptExample(key, "", text, text.strip(), role)

        return LikelihoodTask(examples=self._examples(make), rolling=True, **self._named("nll"))


def _label(task: Any, doc: Any) -> int | None:
    """Return the index of the correct choice; None if lm-eval finds none, or several."""
    choices = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, str):
        return choices.index(gold) if gold in choices else None
    return gold if isinstance(gold, int) and 0 <= gold < len(choices) else None


def behind_the_blank(prompt: str, response: str) -> tuple[str, str]:
    """Move the blanks at the end of a prompt to its response, as lm-eval does before it tokenizes the two.

    >>> behind_the_blank("Answer: ", "yes")
    ('Answer:', ' yes')
    """
    bare = prompt.rstrip()
    return bare, prompt[len(bare) :] + response


@dataclass(frozen=True, slots=True)
class PairsExample(ChoiceExample):
    """A document whose choices are scored as lm-eval's pairs say, such as several prompts with one ending."""

    given: tuple[tuple[str, str], ...] = ()

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs of prompt and response to score."""
        return self.given

    @property
    def responses(self) -> tuple[str, ...]:
        """Every pair as one text."""
        return tuple(prompt + response for prompt, response in self.given)

    @property
    def response(self) -> str:
        """Return the correct choice, as the response after its prompt."""
        return self.given[self.label][1]


@dataclass(frozen=True, slots=True)
class HarnessRule:
    """Decides about an example as lm-eval does about its document: its filters and its metric."""

    task: Any
    """lm-eval's."""
    profile: str
    metric: str
    """The metric whose value, 0 or 1, states whether a document is answered correctly."""
    names: tuple[str, ...]
    """Names of the filters; the first decides."""
    documents: Documents

    def __call__(self, example_id: str, responses: Sequence[Any]) -> Decision:
        """Filter the responses and apply the metric. Raises InputError (`task-metric`: it is neither 0 nor 1)."""
        requests = self.documents[example_id]
        instance = require("lm_eval.api.instance", extra=EXTRA).Instance
        answered = [
            instance(
                request_type=request.request_type,
                doc=request.doc,
                arguments=request.arguments,
                idx=request.idx,
                resps=[response],
            )
            for request, response in zip(requests, responses, strict=True)
        ]
        for ensemble in self.task._filters:
            ensemble.apply(answered)
        filtered = {name: [item.filtered_resps[name] for item in answered] for name in self.names}
        values = self.task.process_results(requests[0].doc, filtered[self.names[0]])
        extracted: dict[str, str | None] = {}
        if len(answered) == 1:
            extracted = {
                name: None if text in (None, NOTHING) else str(text) for name, (text,) in filtered.items()
            }
        return Decision(self._correct(values), extracted)

    def _correct(self, values: Mapping[str, Any]) -> bool:
        value = values.get(self.metric)
        if isinstance(value, bool | int | float) or hasattr(value, "item"):
            number = float(value)  # type: ignore[arg-type]
            if number in (0.0, 1.0):
                return bool(number)
        problem = f"is not among its values ({', '.join(values) or 'nothing'})"
        if self.metric in values:
            problem = f"is {value!r:.40}, neither 0 nor 1"
        raise InputError(
            f"{self.profile}: the metric `{self.metric}` of a document {problem}",
            code="task-metric",
            hint="choose a metric with values 0 and 1: --option metric=NAME",
        )
