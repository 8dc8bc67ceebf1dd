"""Tasks of lm-evaluation-harness by name, `lm_eval:NAME`, or by the YAML that defines one, `lm_eval:path/to/task.yaml`.

Documents, prompts, stops, filters and metrics are lm-eval's; the engine and the records are ours. A definition is read
and looked through for code before lm-eval sees it, and lm-eval is imported only when such a task is made.
"""

from gradience.tasks.harness.definition import PREFIX, Definition, definition_of
from gradience.tasks.harness.make import maker

__all__ = ["PREFIX", "Definition", "definition_of", "maker"]
