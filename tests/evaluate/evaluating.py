"""`evaluate_rows` with one procedure, its settings and those of the loop side by side."""

from dataclasses import fields

from gradience.evaluate import Choices, Classification, Generation, Scores, evaluate_rows


def _evaluate(procedure, engine, names, rows, *, paths=None, **settings):
    given = {field.name for field in fields(procedure)}
    how = procedure(**{name: value for name, value in settings.items() if name in given})
    rest = {name: value for name, value in settings.items() if name not in given}
    return evaluate_rows(engine, how, names, rows, paths=paths, **rest)


def _of_one(procedure):
    def evaluate(engine, name, rows, *, path=None, **settings):
        return _evaluate(procedure, engine, [name], rows, paths=path and {name: path}, **settings)[name]

    return evaluate


evaluate_classification, evaluate_generation, evaluate_choices = map(
    _of_one, (Classification, Generation, Choices)
)


def evaluate_scores(engine, names, rows, **settings):
    return _evaluate(Scores, engine, names, rows, **settings)
