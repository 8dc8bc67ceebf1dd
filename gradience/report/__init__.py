"""Faces: an artifact becomes terminal text, Markdown or HTML. Pure functions of artifacts.

names.py           what a stranger called something, made safe for every sink
numbers.py         numbers for people, never more precise than they are true
terminal.py        styled lines -> text with or without colour
audit.py           audit.json -> the screen
audit_facts.py     what the screen, the Markdown and the HTML all say
audit_heat.py      the map of layers and kinds of modules
audit_document.py  audit.json -> Markdown, and the HTML table of a notebook
audit_plan.py      audit.json -> a LoraConfig to copy
audit_trend.py     several audits -> one table
markdown.py        tables of Markdown
compression.py     a plan, or compression_report.json -> the screen
compression_facts.py     what the screen and the Markdown both say
compression_layers.py    one row a module
compression_document.py  compression_report.json -> Markdown
runtimes.py        verdicts on runtimes -> sentences
comparison.py      a comparison of two adapters -> the screen
"""
