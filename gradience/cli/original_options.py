"""Options of the original project's command line, each with what to type instead."""

IN_THE_FILE = "it is read from the configuration: gradience check config.yaml"
NO_BASE = (
    "leave it out: --base-model compares each update with its weight, and nothing else opens the base model"
)
NO_GUARD = "gradience demo audits a trained adapter; gradience monitor run.jsonl finds NaN in a run"
KEPT = "leave it out: results stay in --output, and runtime.keep_adapters=none gives up the trained weights"

INSTEAD: dict[tuple[str | None, str | None], str] = {
    ("audit", "--adapter-config"): "name the folder that holds both files: gradience audit ./my_adapter",
    ("audit", "--weights"): "gradience audit ./my_adapter, or the path of the .safetensors file",
    ("audit", "--top-singular-values"): "--json has the singular values of every module",
    ("audit", "--base-norms-cache"): NO_BASE,
    ("audit", "--no-udr"): NO_BASE,
    ("check", "--task-profile"): "--task classification, generation, reasoning or rl",
    ("check", "--model"): IN_THE_FILE,
    ("check", "--optimizer"): IN_THE_FILE,
    ("check", "--weight-decay"): IN_THE_FILE,
    ("check", "--targets"): IN_THE_FILE,
    ("check", "--notes"): "leave it out: check writes no run",
    ("demo", "--guard"): NO_GUARD,
    ("demo", "--inject-nan"): NO_GUARD,
    ("demo", "--inject-step"): NO_GUARD,
    ("demo", "--max-steps"): NO_GUARD,
    ("demo", "--out-dir"): "leave it out: the demo writes nothing",
    (
        "run",
        "--ci",
    ): "leave it out: the exit code says PASS (0), FAIL (1), nothing concluded (8) or error (4)",
    ("run", "--device"): "runtime.device=cpu, after the options",
    ("run", "--keep-artifacts"): KEPT,
    ("run", "--clean-on-pass"): KEPT,
    ("aggregate", "--include-smoke"): "leave it out: a smoke run is no evidence, and none is aggregated",
}
"""(verb, option) -> what to type."""
