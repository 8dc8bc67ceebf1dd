"""What is added to evidence: a format of logs, and a section of its report, seen wherever its kind is seen."""


def test_a_toy_format_of_logs_is_one_file_and_one_line(tmp_path, add, command, artifact):
    from gradience.errors import InputError
    from gradience.evidence.base import Log, LogExample, LogFormat

    def read(path, wanted):
        marks = path.read_text(encoding="utf-8").strip()
        if not set(marks) <= {"+", "-"}:
            raise InputError(f"{path}: only + and -", code="toy", hint="write + or -")
        items = {
            str(place): LogExample(str(place), score=float(mark == "+")) for place, mark in enumerate(marks)
        }
        return Log(path, "marks", "right", items)

    add("format of logs", LogFormat("marks", lambda path, _: path.suffix == ".marks", read))
    for name, marks in (("a", "++--"), ("b", "+-+-"), ("broken", "+?")):
        (tmp_path / f"{name}.marks").write_text(marks)
    report = artifact("evidence", tmp_path / "a.marks", tmp_path / "b.marks", code=8)
    assert (report["a"]["format"], report["metric"], report["n_lost"], report["n_gained"]) == (
        "marks",
        "right",
        1,
        1,
    )
    assert "marks · sha256" in command("evidence", tmp_path / "a.marks", tmp_path / "b.marks", code=8).out
    assert "only + and -" in command("evidence", tmp_path / "a.marks", tmp_path / "broken.marks", code=3).err
    (tmp_path / "other").touch()
    unknown = command("evidence", tmp_path / "a.marks", tmp_path / "other", code=3).err
    assert "marks" in unknown.partition("known are ")[2]


def test_a_toy_section_of_two_logs(tmp_path, add, command):
    from gradience.reports.base.blocks import Heading

    def guess_blocks(report):
        return [Heading(f"What was guessed of {report.n}?")]

    add("section of two logs", guess_blocks)
    scores = tmp_path / "a.csv"
    scores.write_text("id,score\na,1\nb,0\n")
    assert "\nWhat was guessed of 2?\n" in command("evidence", scores, scores, code=8).out
