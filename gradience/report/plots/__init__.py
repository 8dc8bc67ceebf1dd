"""Plots as pure data, and what draws them.

plot.py     what a plot is made of: axes, series of a few kinds, reference lines, a sentence; and the table behind it
table.py    the figures behind a plot
kinds.py    which plots each report has
spectra.py, layers.py, … the functions that make them, a file for each subject
palette.py  the colours, the same in every renderer
plotly.py    the JSON of a plotly figure, for a page
to_matplotlib.py, plotly_figure.py   a plot for a paper: SVG, PDF or PNG; for a notebook

A plot is made of a report by a function of the file of its kind, and holds plain text, never markup: a renderer
escapes all of it in one place.
"""
