"""Reports as one HTML file that opens from disk: no network, no other file, and no script from untrusted text.

render.py   the parts of a page (reports, flipped examples) as HTML, and the only place where scripts are inserted
assets/     our template, style and script, and plotly's bundle with its license
"""
