"""Statistics of paired differences: paired tables and scores -> intervals, bounds, power. Pure: numpy and scipy.

The sign is always candidate − reference: a smaller adapter that answers fewer examples correctly has Δ < 0. A margin m
is positive, and "non-inferior" means Δ > −m.
"""
