"""python scripts/hostile_figures.py FOLDER: figures of a run of `make hostile` -> docs/conformance/hostile.json.

Each row keeps the date and the versions of the run that it comes from: a run of a part renews that part.
"""

import datetime
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

KEPT = Path(__file__).resolve().parent.parent / "docs" / "conformance" / "hostile.json"


def main(folder: Path) -> None:
    kept: list[dict[str, Any]] = json.loads(KEPT.read_text(encoding="utf-8"))["rows"] if KEPT.exists() else []
    run = {
        "date": datetime.date.today().isoformat(),
        "on": f"{os.cpu_count()} processors, Python {platform.python_version()}, numpy {version('numpy')}, "
        f"safetensors {version('safetensors')}",
    }
    rows = [
        json.loads(path.read_text(encoding="utf-8")) | {"run": run} for path in sorted(folder.glob("*.json"))
    ]
    fresh = {(row["goal"], row["what"]) for row in rows}
    rows += [row for row in kept if (row["goal"], row["what"]) not in fresh]
    rows.sort(key=lambda row: (int(row["goal"][1:]), row["what"]))
    KEPT.write_text(json.dumps({"rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{KEPT}: {len(fresh)} rows renewed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
