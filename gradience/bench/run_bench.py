"""`python -m gradience.bench.run_bench --config C.yaml --output DIR`: the published name of `gradience bench run`."""

if __name__ == "__main__":
    import sys

    from gradience.cli.interrupted import until_ready

    until_ready()
    from gradience.cli.app import main

    sys.argv[1:1] = ["bench", "run"]
    main()
