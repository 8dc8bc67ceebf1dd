"""Lines torn at every byte: reading says so and loses no other line, and the next writer repairs (R6)."""

import pytest
from raising import raises

from gradience.errors import InputError
from gradience.evaluate.records import RecordFile, answer_batches
from gradience.files.records import ExamplesRun, ScoreRecord, read_records
from gradience.telemetry import TelemetryReader, TelemetryWriter, last_position
from gradience.telemetry.writer import RunStatus
from hostile.programs import record

IDS, BATCHES = ("a", "ß", "c"), ((2, 0), (1,))


def test_a_run_torn_at_every_byte_of_its_last_lines(tmp_path):
    path = tmp_path / "run.jsonl"
    with TelemetryWriter(path, run_id="ü") as run:
        run.start({"lora": {"r": 8}})
        run.metrics("loss-spike", 1, {"what": "σ₁ grew"})
        run.train_step(2, loss=0.5)
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 4
    for cut in range(ends[0], len(whole)):
        path.write_bytes(whole[:cut])
        # A line that lacks its last newline alone has lost nothing.
        lines = sum(end <= cut + 1 for end in ends)
        torn = cut not in ends and cut + 1 not in ends
        reader = TelemetryReader(path)
        assert len(list(reader)) == lines, cut
        assert {code: issue.count for code, issue in reader.issues.items()} == (
            {"torn-line": 1} if torn else {}
        ), cut
        assert last_position(path) is not None, cut
        with TelemetryWriter(path, run_id="ü") as run:
            run.end(RunStatus.OK, step=2)
        assert [entry.event for entry in reader][lines:] == ["run_end"], cut
        assert {code: issue.count for code, issue in reader.issues.items()} == (
            {"not-json": 1} if torn else {}
        ), cut
    record("R6", "run.jsonl torn at every byte of its last lines", cases=len(whole) - ends[0])


def header() -> ExamplesRun:
    return ExamplesRun(
        kind="scores", adapter="smaller", adapter_sha256=None, adapter_config_sha256=None, base="tiny",
        base_sha256="0", tokenizer_sha256="0", dtype="float32", attention=None, device="cpu", threads=1,
        versions={}, batch_size=2, max_length=None, examples_sha256="0", n=len(IDS),
    )  # fmt: skip


def evaluate(path):
    """Answers every batch that is not there; returns how many that were."""
    answered = []

    def answer(places):
        answered.append(places)
        facts = {
            "prompt_sha256": "0",
            "response_sha256": "0",
            "n_tokens": 1,
            "exact": False,
            "truncated": False,
        }
        return [[ScoreRecord(id=IDS[place], loglikelihood=-place, **facts) for place in places]]

    answer_batches([RecordFile(header(), IDS, BATCHES, path)], answer)
    return len(answered)


@pytest.fixture
def parts(tmp_path):
    """What lies in `.part` when all is answered and nothing yet renamed, and the finished file."""
    file = RecordFile(header(), IDS, BATCHES, tmp_path / "answers.jsonl")
    file.keep(0)
    assert evaluate(tmp_path / "other.jsonl") == len(BATCHES)
    whole = (tmp_path / "other.jsonl").read_bytes()
    first, *records = whole.splitlines(keepends=True)
    in_batches = [records[place] for batch in BATCHES for place in batch]
    return first, in_batches, whole


def test_records_torn_at_every_byte_of_their_last_line(parts, tmp_path):
    first, records, whole = parts
    path, part = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.part"
    content = b"".join([first, *records])
    batch_ends = [len(first) + len(records[0]) + len(records[1]), len(content)]
    start = len(content) - len(records[2]) - 20  # the end of the line before as well
    for cut in range(start, len(content) + 1):
        part.write_bytes(content[:cut])
        assert evaluate(path) == sum(end > cut for end in batch_ends), cut
        assert path.read_bytes() == whole, cut
        assert not part.exists()
        path.unlink()
    record("R6", "records torn at every byte of their last line", cases=len(records[1]) + len(records[2]) + 1)


def test_a_finished_file_of_records_that_lost_its_end_is_refused_and_made_again(parts, tmp_path):
    whole, path = parts[2], tmp_path / "answers.jsonl"
    for cut in range(len(whole) - len(parts[1][0]), len(whole) - 1):
        path.write_bytes(whole[:cut])
        with raises(InputError, "artifact-invalid"):
            read_records(path)
    assert evaluate(path) == len(BATCHES)
    assert path.read_bytes() == whole
