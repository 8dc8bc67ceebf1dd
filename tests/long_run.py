"""A run.jsonl of any length, in the form that the callback writes: tests/monitor/runs/good.jsonl with many steps."""

import json
from pathlib import Path

GOOD = Path(__file__).parent / "monitor" / "runs" / "good.jsonl"


def write_run(path: Path, lines: int) -> None:
    """Write `lines` lines: the beginning and the end of the real run, and between them steps of a falling loss."""
    text = GOOD.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in text]
    begin = next(at for at, row in enumerate(rows) if row["event"] == "train_step")
    step = rows[begin]
    last = rows[-1]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in text[:begin])
        for at in range(1, lines - begin):
            loss = 0.4 + 0.3 / (1 + at / lines) + 0.01 * (at % 7)
            row = {**step, "step": at, "ts": step["ts"] + at, "loss": loss, "elapsed_s": float(at)}
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
        file.write(
            json.dumps({**last, "step": lines, "ts": last["ts"] + lines}, separators=(",", ":")) + "\n"
        )
