"""The command line: parse, call, print. The only package that prints.

`gradience --help` imports no verb. A file of verbs imports settings and output at the top, and what does the work
inside the function that needs it, so that the help of a verb stays fast.
"""
