"""`gradience check`: check a training configuration before training."""

from gradience.check import CheckSettings, check_config
from gradience.cli.exit_codes import ExitCode
from gradience.cli.output import VerboseOutput
from gradience.settings import call


def check(settings: CheckSettings, out: VerboseOutput) -> int:
    """Reports what is wrong, unusual or not supported. One file may contain both the adapter's and the training's
    settings. A pickled training_args.bin is never opened. Exit code 1: an error was found.

    Examples:

      gradience check ./my_adapter

      gradience check trl.yaml --task generation --lr 1e-4

      gradience check ./my_adapter --training-dir ./run --json
    """
    report = call(check_config, settings)
    out.show(report)
    errors = any(finding.severity == "error" for finding in report.findings)
    return ExitCode.GATE_FAILED if errors else ExitCode.DONE
