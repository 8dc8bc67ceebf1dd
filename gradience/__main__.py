"""`python -m gradience` is the same thing as `gradience`."""

import gc
import os

from gradience.cli.interrupted import until_ready

until_ready()
gc.set_threshold(
    10_000
)  # what is imported stays; with the default of 700 it is searched for garbage again and again
os.environ.setdefault(
    "PYDANTIC_DISABLE_PLUGINS", "__all__"
)  # looked for in every installed package otherwise

from gradience.cli.app import main  # noqa: E402 (importing it takes a while)

if __name__ == "__main__":
    main()
