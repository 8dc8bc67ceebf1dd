"""Plots as pure data, and their renderers.

plot.py     the model of a plot: axes, series of a few kinds, reference lines, a sentence, and colors
compared.py   the plots of candidates beside a reference, which several reports have; others are in the report's file
plotly.py   a plot as the JSON of a plotly figure, which a page draws
matplotlib.py   plots as matplotlib draws them for a paper or a notebook, as SVG, PDF or PNG

One function makes each plot of a report. A plot contains plain text, never markup: a renderer escapes all text in one
place.
"""
