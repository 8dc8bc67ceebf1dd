"""Plots as pure data, and what draws them.

plot.py     the model of a plot: axes, series of a few kinds, reference lines, a sentence, and colours
table.py    the figures behind a plot
kinds.py    which plots each report has, and in which section each stands
audits.py, compared.py, runs.py, sizes.py   the functions that make them; shared.py has what several of these use
labels.py   where names of points stand, so that none lies on another
plotly.py   a plot as the JSON of a plotly figure for a page, and as plotly's figure for a notebook
matplotlib.py   plots as matplotlib draws them for a paper, also beside each other, as SVG, PDF or PNG

A plot is made of a report by one function, and holds plain text, never markup: a renderer escapes all of it in one
place.
"""
