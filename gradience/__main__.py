"""`python -m gradience` is the same thing as `gradience`."""

from gradience.cli.app import main

if __name__ == "__main__":
    main()
