"""Reports as one HTML file that opens from disk: no network, no other file, nothing in it that a stranger wrote runs.

opening.py  how a page begins: its title, and the verdict in short
flips.py    the examples that only one of two adapters has correct, from the records beside a report
parts.py    what a page is made of: parts, sections, blocks, and plots among them
render.py   parts as HTML: the template, the policy, the one place where scripts come in
assets/     template, style and script of ours, and plotly's bundle with its licence
"""
