"""The process in which a chat template is rendered: lines of JSON on stdin and stdout.

Run by `chat` as `python -m gradience.models.chat_process`. A template is an untrusted program: Jinja's sandbox keeps it
from files and code, and the limits here keep it from taking the machine.
"""

import json
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

MEMORY_BYTES = 512 * 2**20
"""Address space for rendering, beyond what the process uses before it starts."""
SECONDS, SECONDS_EACH = 5.0, 0.007
"""Processor time: a constant, plus this much for each text. Ordinary texts need a hundredth of that."""
MAX_CHARACTERS, TIMES_GIVEN = 100_000, 10
"""Largest rendered text: a constant, plus this multiple of the conversation's own text."""


def main() -> None:
    """Read the template, then answer each line of conversations with their texts, or with what is wrong."""
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides when this ends
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    space, most = pages * resource.getpagesize() + MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(
        resource.RLIMIT_AS, (space if most == resource.RLIM_INFINITY else min(space, most),) * 2
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    started = time.process_time()
    template, special_tokens = json.loads(sys.stdin.readline())

    def written(chat: Any, asks: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in chat]
        texts = render_jinja_template([messages], None, None, template, False, False, asks, **special_tokens)[
            0
        ]
        text = str(texts[0])
        limit = MAX_CHARACTERS + TIMES_GIVEN * sum(len(content) for _, content in chat)
        if len(text) > limit:
            raise TemplateError(f"{len(text):,} characters (limit: {limit:,})")
        text.encode()
        return text

    allowed = SECONDS
    for line in sys.stdin:
        chats = json.loads(line)
        allowed += SECONDS_EACH * len(chats)
        signal.setitimer(signal.ITIMER_PROF, max(allowed - (time.process_time() - started), SECONDS_EACH))
        texts: list[str] = []
        reply: dict[str, Any] = {"texts": texts}
        try:
            texts += (written(*chat) for chat in chats)
        except MemoryError:
            reply = {"wrong": f"it takes more than {MEMORY_BYTES // 2**20} MB of memory"}
        except Exception as error:  # noqa: BLE001  (a stranger's program may raise anything)
            name = "" if type(error) is TemplateError else f"{type(error).__name__}: "
            reply = {"wrong": f"{name}{error}"[:500]}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
