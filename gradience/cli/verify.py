"""`gradience verify`: does the folder of a run agree with itself, and with what was published?"""

from pathlib import Path

from gradience.bench.settings import VerifySettings, existing_folder
from gradience.cli.exit_codes import ExitCode
from gradience.cli.output import TextsOutput


def verify(settings: VerifySettings, out: TextsOutput) -> int:
    """Recomputes digests, scores of the stored answers, counts, verdicts, aggregate and pages, and compares them.
    What was not checked is listed. Only --regenerate needs the model. The verdict is "consistent", or
    "verified" if --root or --plan was given and matches. Exit codes: 0 nothing disagrees, 1 something does.

    Examples:

      gradience verify runs/mine

      gradience verify runs/mine --root 5e2dad3437c42908dacc05164a5c6fa313983eef2258ffe9ef34b4997834ae43

      gradience verify runs/mine --data --regenerate 16
    """
    existing_folder(Path(settings.folder))  # before the imports of every kind of result
    from gradience.verification.verb import verify as verify_result

    report = out.run(verify_result, settings, f"verifying {settings.folder}")
    out.show(report)
    return ExitCode.DONE if report.verdict != "mismatch" else ExitCode.GATE_FAILED
