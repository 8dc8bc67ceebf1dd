"""Many audits in one process: memory and open files at their end against those early on."""

import os
import time
from pathlib import Path
from typing import Any

from gradience import audit_adapter


def held() -> tuple[int, int]:
    """Bytes of memory and open files of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


def main(adapter: str, audits: int) -> dict[str, Any]:
    started, early = time.monotonic(), (0, 0)
    first = audit_adapter(adapter)
    for number in range(1, audits):
        if number == audits // 10:  # pools and caches are filled by then
            early = held()
        assert audit_adapter(adapter).layers == first.layers
    late = held()
    return {
        "audits": audits,
        "early bytes": early[0],
        "late bytes": late[0],
        "early files": early[1],
        "late files": late[1],
        "seconds": round(time.monotonic() - started, 1),
    }
