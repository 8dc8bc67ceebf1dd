"""The results of a run as others read them: Every Eval Ever, the hub's YAML. Files are written, nothing is uploaded."""

import json
import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from gradience.bench.verdict.aggregate import AGGREGATE, find_benches
from gradience.bench.verify.recompute import gold_of, output_of
from gradience.digests import sha256_parts
from gradience.errors import InputError, UsageError
from gradience.files.records import GenerationRecord, Record, ScoreRecord, read_records
from gradience.files.whole import refuse_links, write_whole
from gradience.reports.bench import Bench, BenchAggregate, Measures, VariantResult


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One adapter that was evaluated."""

    name: str
    """`probe`, or the variant's."""
    folder: Path
    """Folder of the seed."""
    bench: Bench
    measures: Measures
    result: VariantResult | None
    """None: the probe."""
    grade: str | None
    """Grade over all seeds; None if none was given."""

    @property
    def label(self) -> str:
        """A name of its own in the run."""
        return f"{self.name}-seed{self.bench.seed}"


def evaluated(folder: Path) -> Iterator[Evaluated]:
    """Yield the adapters of a run, seed after seed, the probe first; duplicates are left out.

    Raises InputError (`bench-smoke`), and what `find_benches` and `Bench.read` raise.
    """
    together = BenchAggregate.read(folder / AGGREGATE) if (folder / AGGREGATE).is_file() else None
    of_all = {variant.name: variant for variant in together.variants} if together is not None else {}
    for path in find_benches([folder]):
        bench = Bench.read(path)
        if bench.smoke:
            raise InputError(
                f"{path}: a smoke run is no evidence", code="bench-smoke", hint="run it without --smoke"
            )
        if bench.probe is not None:
            yield Evaluated("probe", path.parent, bench, bench.probe, None, None)
        for result in bench.variants:
            if result.measures is not None and result.same_as is None:
                graded = result if together is None else of_all.get(result.name)
                grade = graded.evidence.grade if graded is not None and graded.evidence is not None else None
                yield Evaluated(result.name, path.parent, bench, result.measures, result, grade)


SCHEMA_VERSION = "0.3.0"
TEXT_UNKNOWN = "sha256:"
"""Prefix of the digest of a prompt."""


def export_eee(folder: Path, output: Path) -> list[Path]:
    """Write the run in `folder` below `output`/data, and return the files; raises what `evaluated` does."""
    refuse_links(output)
    written = []
    for adapter in evaluated(folder):
        base = adapter.bench.model.replace(":", "-").replace("/", "-")
        place = output / "data" / adapter.bench.data.task / "gradience" / f"{base}-{adapter.label}"
        name = str(uuid.UUID(bytes=bytes.fromhex(adapter.measures.records_sha256)[:16], version=4))
        place.mkdir(parents=True, exist_ok=True)
        model = f"gradience/{base}-{adapter.label}"
        timestamp = str(int(datetime.fromisoformat(adapter.bench.run.started).timestamp()))
        identity = f"{adapter.bench.data.task}/{model}/{timestamp}"
        rows = _rows(adapter, identity, model)
        samples = write_whole(place / f"{name}_samples.jsonl", rows)
        document = _document(adapter, identity, model, timestamp)
        document["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": samples.relative_to(output).as_posix(),
            "hash_algorithm": "sha256",
            "checksum": sha256_parts(rows),
            "total_rows": len(rows),
        }
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        written += [write_whole(place / f"{name}.json", [text.encode() + b"\n"]), samples]
    return written


def _document(adapter: Evaluated, identity: str, model: str, timestamp: str) -> dict[str, Any]:
    bench, measures = adapter.bench, adapter.measures
    versions = bench.environment.versions
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": identity,
        "evaluation_timestamp": bench.run.started,
        "retrieved_timestamp": timestamp,
        "source_metadata": {
            "source_name": "gradience bench",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "gradience", "version": bench.run.gradience_version},
        "model_info": {
            "name": f"{bench.model} with the LoRA adapter {adapter.name} (seed {bench.seed})",
            "id": model,
            "inference_engine": {"name": "transformers", "version": versions.get("transformers", "unknown")},
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "base_model": bench.model,
                "base_fingerprint": bench.base_fingerprint,
                "adapter": adapter.name,
                "adapter_sha256": measures.adapter_sha256,
                "lora_params": str(measures.lora_params),
                "seed": str(bench.seed),
            },
        },
        "evaluation_results": [_result(adapter)],
    }


def _result(adapter: Evaluated) -> dict[str, Any]:
    bench, measures = adapter.bench, adapter.measures
    deviation = math.sqrt(measures.score * (1 - measures.score))
    return {
        "evaluation_result_id": "accuracy",
        "evaluation_name": bench.data.task,
        "source_data": {
            "dataset_name": bench.data.task,
            "source_type": "other",
            "additional_details": {role: str(source) for role, source in bench.data.source.items()},
        },
        "metric_config": {
            "metric_id": "accuracy",
            "metric_name": "Accuracy",
            "metric_kind": "accuracy",
            "metric_unit": "proportion",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0,
            "max_score": 1,
        },
        "score_details": {
            "score": measures.score,
            "details": _details(adapter),
            "uncertainty": {
                "standard_error": {"value": deviation / math.sqrt(measures.n), "method": "analytic"},
                "standard_deviation": deviation,
                "num_samples": measures.n,
            },
        },
    }


def _details(adapter: Evaluated) -> dict[str, str]:
    """Return the facts without a field in the schema: the difference from the probe, the policy's result and
    the evidence.
    """
    details = {"correct": str(adapter.measures.correct), "n": str(adapter.measures.n)}
    result, probe = adapter.result, adapter.bench.probe
    if result is None or result.pairs is None or probe is None:
        return details
    return details | {
        "compared_with": f"the probe of the same seed (rank {probe.rank})",
        "difference": str(result.delta_exact),
        "difference_95_percent_interval": f"[{result.pairs.low:.6g}, {result.pairs.high:.6g}]",
        "difference_interval_method": "Tango's score interval for paired proportions",
        "policy_status_of_this_seed": result.status,
        **({"grade_over_all_seeds": adapter.grade} if adapter.grade is not None else {}),
    }


def _rows(adapter: Evaluated, identity: str, model: str) -> list[bytes]:
    evaluation = read_records(adapter.folder / adapter.measures.records)
    shared = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": identity,
        "model_id": model,
        "evaluation_name": adapter.bench.data.task,
        "evaluation_result_id": "accuracy",
        "interaction_type": "single_turn",
    }
    run = evaluation.run
    largest = "largest logit" if run.kind == "classification" else "largest likelihood"
    how = run.filters[0] if run.filters else largest
    return [
        json.dumps(shared | _row(record, how), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        for record in evaluation.records
    ]


def _row(record: Record, how: str) -> dict[str, Any]:
    assert not isinstance(record, ScoreRecord)  # Bench counts correct answers
    (_, digest, _), output = gold_of(record), output_of(record)
    if isinstance(record, GenerationRecord):
        gold, extracted = record.answer, record.extracted or ""
    else:
        gold, extracted = str(record.label), output
    return {
        "sample_id": record.id,
        "sample_hash": digest,
        "input": {"raw": f"{TEXT_UNKNOWN}{digest}", "reference": [gold]},
        "output": {"raw": [output]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": extracted,
                "extraction_method": how,
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": float(record.correct), "is_correct": record.correct},
    }


KNOWN = {"gsm8k": ("openai/gsm8k", "gsm8k"), "glue": ("nyu-mll/glue", "")}
"""Profile of a task -> its data set on the hub, and the task in it; GLUE's is the subset."""


def export_hub(folder: Path, output: Path, *, dataset: str | None = None) -> list[Path]:
    """Write a YAML for each adapter of the run in `folder`, and return the files.

    dataset: the data set on the hub, if the task does not name it. Raises UsageError (`no-dataset`), and the
    errors of `evaluated` and of writing.
    """
    refuse_links(output)
    written = []
    for adapter in evaluated(folder):
        place = output / f"seed_{adapter.bench.seed}"
        place.mkdir(parents=True, exist_ok=True)
        entries = [_entry(adapter, *_dataset(adapter, dataset))]
        text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
        written.append(write_whole(place / f"{adapter.name}.yaml", [text.encode()]))
    return written


def _dataset(adapter: Evaluated, given: str | None) -> tuple[str, str]:
    task = adapter.bench.config["task"]
    options = task.get("options") or {}
    known, name = KNOWN.get(task["profile"], (None, ""))
    dataset = given or options.get("dataset") or known
    if dataset is None:
        raise UsageError(
            f"{adapter.bench.data.task}: its data set has no hub name",
            code="no-dataset",
            hint="give --dataset ORG/NAME, or export --to eee",
        )
    return str(dataset), str(options.get("subset") or name or adapter.bench.data.task)


def _entry(adapter: Evaluated, dataset: str, task: str) -> dict[str, object]:
    measures, result = adapter.measures, adapter.result
    notes = [f"{measures.correct:,} of {measures.n:,} correct (gradience bench, seed {adapter.bench.seed})"]
    if result is not None and result.pairs is not None:
        low, high = (f"{100 * end:+.2f}" for end in (result.pairs.low, result.pairs.high))
        notes.append(
            f"difference to the full rank {result.delta_exact}, 95 % interval {low} to {high} points"
        )
        notes.append(f"policy of this seed: {result.status}")
    if adapter.grade is not None:
        notes.append(f"grade over all seeds: {adapter.grade}")
    return {
        "dataset": {"id": dataset, "task_id": task},
        "value": round(100 * measures.score, 4),
        "date": adapter.bench.run.started[:10],
        "notes": "; ".join(notes),
    }
