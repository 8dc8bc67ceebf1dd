"""Reports as one HTML file that opens from disk: no network, no other file, and no script from untrusted text.

flips.py    the examples that only one of two adapters answers correctly, from the records beside a report
render.py   the parts of a page, as HTML: the template, the policy, the only place where scripts are inserted
assets/     our template, style and script, and plotly's bundle with its license
"""
