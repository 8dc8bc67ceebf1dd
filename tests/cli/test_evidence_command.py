"""`gradience evidence`, as a user runs it."""

import pytest

from gradience.cli.app import run


def tables(folder, both, lost, gained, neither):
    a = [1] * (both + lost) + [0] * (gained + neither)
    b = [1] * both + [0] * lost + [1] * gained + [0] * neither
    for name, scores in (("a", a), ("b", b)):
        rows = "".join(f"q{number},{score}\n" for number, score in enumerate(scores))
        (folder / f"{name}.csv").write_text(f"id,score\n{rows}")
    return [str(folder / "a.csv"), str(folder / "b.csv")]


EQUAL, FEW, WORSE = (900, 10, 10, 80), (150, 12, 8, 30), (700, 120, 20, 160)


@pytest.mark.parametrize(
    ("cells", "required", "code"),
    [
        (EQUAL, (), 0),
        (FEW, (), 8),
        (WORSE, (), 1),
        (EQUAL, ("--require-grade", "B"), 0),
        (FEW, ("--require-grade", "B"), 8),
        (WORSE, ("--require-grade", "B"), 1),
        (EQUAL, ("--require-grade", "C"), 0),
        (FEW, ("--require-grade", "C"), 0),
        (WORSE, ("--require-grade", "C"), 1),
        (EQUAL, ("--require-grade", "A"), 2),
        (EQUAL, ("--flips", "-1"), 2),
    ],
)
def test_exit_codes(tmp_path, capsys, cells, required, code):
    assert run(["evidence", *tables(tmp_path, *cells), *required]) == code
    shown = capsys.readouterr()
    assert bool(shown.out) == (code != 2)


def test_logs_that_do_not_fit_end_with_3(tmp_path, capsys):
    paths = tables(tmp_path, *FEW)
    (tmp_path / "b.csv").write_text("id,score\nq0,1\nq1,1\n")
    assert run(["evidence", *paths, "--require-grade", "B"]) == 3
    assert "198 examples only in" in capsys.readouterr().err
