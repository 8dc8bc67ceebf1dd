"""`python -m gradience.bench.aggregate DIR… --output DIR`: the published name of `gradience bench aggregate`."""

if __name__ == "__main__":
    import sys

    from gradience.cli.interrupted import until_ready

    until_ready()
    from gradience.cli.app import main

    sys.argv[1:1] = ["bench", "aggregate"]
    main()
