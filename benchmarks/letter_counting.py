"""The further task of the calibration proof: reasoning-gym's `letter_counting` as rows for `task.profile: jsonl`.

    python benchmarks/letter_counting.py rows.jsonl

Writes 14,000 prompts with their answers, from a fixed seed; the answer `1` is right for 36 % of them. Needs the extra
[demo].
"""

import json
import sys
from pathlib import Path

import reasoning_gym

SIZE, SEED = 14_000, 42


def main() -> None:
    rows = reasoning_gym.create_dataset("letter_counting", size=SIZE, seed=SEED)
    texts = dict.fromkeys((row["question"], row["answer"]) for row in rows)
    lines = (json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in texts)
    Path(sys.argv[1]).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
