"""The further task of the calibration proof: reasoning-gym's `number_sorting` as rows for `task.profile: jsonl`.

    python benchmarks/number_sorting.py rows.jsonl [FEWEST MOST]

Writes 14,000 questions of three or four whole numbers (FEWEST to MOST) with their answers, from a fixed seed. Of a
question the first line is the prompt: what follows it there says how an answer is written, is the same in every row,
and is most of its tokens. Copying the numbers as they stand is right for 10 % of the rows. Needs the extra [demo].
"""

import json
import sys
from pathlib import Path

import reasoning_gym

SIZE, SEED = 14_000, 42


def main() -> None:
    numbers = (
        {"min_numbers": int(sys.argv[2]), "max_numbers": int(sys.argv[3])}
        if sys.argv[2:]
        else {"max_numbers": 4}
    )
    rows = reasoning_gym.create_dataset("number_sorting", size=SIZE, seed=SEED, max_decimals=0, **numbers)
    texts = dict.fromkeys((row["question"].split("\n")[0] + "\n", row["answer"]) for row in rows)
    lines = (json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in texts)
    Path(sys.argv[1]).write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
