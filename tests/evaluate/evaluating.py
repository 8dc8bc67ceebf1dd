"""`evaluate_rows` with one procedure, its settings and those of the loop side by side."""

from dataclasses import fields

import numpy as np
import torch
from scipy.special import log_softmax

from gradience.evaluate import Choices, Classification, Generation, Scores, evaluate_rows
from gradience.tasks.base import AnswerScoring


def _of(procedure):
    def evaluate(engine, name, rows, **settings):
        given = {field.name for field in fields(procedure)}
        how = procedure(**{key: value for key, value in settings.items() if key in given})
        rest = {key: value for key, value in settings.items() if key not in given}
        return evaluate_rows(engine, how, name, rows, **rest)

    return evaluate


evaluate_classification, evaluate_choices = map(_of, (Classification, Choices))


def evaluate_generation(engine, name, rows, *, filters, same, **settings):
    """Answers of one adapter, scored by these filters."""
    return _of(Generation)(engine, name, rows, rules=AnswerScoring(filters=filters, same=same), **settings)


IDS = torch.arange(12)[None]


def logits(engine, name):
    """The logits of IDS with an adapter; None: of the base."""
    with engine.using(name) as model, torch.no_grad():
        return model(input_ids=IDS).logits


def distributions(engine, name, prompt, response):
    """Log-probabilities after each prefix of the response, one forward pass each: (tokens, vocabulary)."""
    rows = []
    with engine.using(name) as model, torch.no_grad():
        for place in range(len(response)):
            out = model(input_ids=torch.tensor([[*prompt, *response[:place]]])).logits[0, -1]
            rows.append(log_softmax(out.double().numpy()))
    return np.array(rows)


def evaluate_scores(engine, names, rows, *, paths=None, **settings):
    """The scores under each of several adapters."""
    return {name: _of(Scores)(engine, name, rows, path=paths and paths[name], **settings) for name in names}
