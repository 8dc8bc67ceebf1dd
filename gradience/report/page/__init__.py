"""Reports as one HTML file that opens from disk: no network, no other file, nothing in it that a stranger wrote runs.

answers.py  what each adapter answered: the records beside a report, where they are the report's own
flips.py    the examples that only one of two adapters has correct; flips_of_seeds.py over the seeds of a Bench run
pieces.py   what a page is made of: parts, sections, blocks, and plots among them
together.py   the parts of a page, and one over several audits or runs
titles.py   what a page is called: what of which adapter, run or model
render.py   pieces as HTML: the template, the policy, the one place where scripts come in
assets/     template, style and script of ours, and plotly's bundle with its licence
"""
