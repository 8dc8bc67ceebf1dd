"""Plots as pure data, and what draws them.

plot.py     what a plot is made of: axes, series of a few kinds, reference lines, a sentence; and the table behind it
table.py    the figures behind a plot
kinds.py    which plots each report has
spectra.py, layers.py, fleet.py, … the functions that make them, a file for each subject
palette.py  the colours, the same in every renderer
labels.py   where names of points stand, so that none lies on another
plotly.py   the JSON of a plotly figure, for a page and a notebook; plotly_figure.py makes plotly's own object of it
to_matplotlib.py   a plot as matplotlib draws it; paper.py puts plots beside each other, as SVG, PDF or PNG

A plot is made of a report by a function of the file of its kind, and holds plain text, never markup: a renderer
escapes all of it in one place.
"""
