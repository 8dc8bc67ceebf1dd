"""The command line: parse, call, print. The only package that prints.

One file a verb. Modules here import typer and the standard library at the top, and everything
else inside the function that needs it, so that `gradience --help` stays fast.
"""
