"""Two logs of an evaluation, whoever wrote them: the same examples, paired, and what their scores show.

A reader turns one format into a `Log` (base.py); formats.py lists them; pairing.py refuses what cannot be compared;
outcome.py computes; verb.py is the verb. No torch, no model: scores are taken as they were logged.
"""
