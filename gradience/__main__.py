"""`python -m gradience` is the same thing as `gradience`."""

from gradience.cli.interrupted import until_ready

until_ready()

from gradience.cli.app import main  # noqa: E402 (importing it takes a while)

if __name__ == "__main__":
    main()
