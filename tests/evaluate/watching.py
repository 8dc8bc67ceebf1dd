"""A watcher for tests."""

from gradience.progress import Watcher


class Notes(Watcher):
    """Remembers what was said, and which stages and batches there were."""

    def __init__(self) -> None:
        self.notes, self.stages, self.steps = [], [], 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, name: str, number: int, of: int | None) -> None:
        self.stages.append((name, number, of))

    def step(self, done: int, total: int) -> None:
        self.steps += 1
