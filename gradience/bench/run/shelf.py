"""Stages of a seed in a storage: a machine brings what it needs from there, and puts there what it has made.

Without a storage the folder of the run is one that all machines see, and there is nothing to bring.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gradience.adapters.locate import WEIGHTS
from gradience.artifacts.stage import MANIFEST, StageManifest
from gradience.digests import sha256_bytes, sha256_file
from gradience.storage.objects import bring, finish, listed, publish, withdraw
from gradience.storage.place import Place


@dataclass(frozen=True, slots=True)
class Shelf:
    """The stages of one seed, in `place` and in the folder `here`."""

    place: Place
    here: Path
    seed: int

    def bring(self, stage: str, *, weights: bool) -> None:
        """Have a stage here that is finished there; its weights only where they are needed."""
        content = listed(self.place, self._name(stage), MANIFEST)
        folder = self.here / stage
        if content is None:
            return
        files = {
            name: file.sha256 for name, file in StageManifest.parse(folder / MANIFEST, content).files.items()
        }
        wanted = {name: sha256 for name, sha256 in files.items() if weights or not name.endswith(WEIGHTS)}
        bring(self.place, folder, wanted)
        finish(folder, MANIFEST, content)

    def publish(self, stage: str) -> None:
        """Put a stage there that is finished here. The same one that is there stays, and is brought in place of ours.

        One that was made of something else gives way. Weights that are not kept here do not go there.
        """
        folder = self.here / stage
        ours, there = StageManifest.read(folder / MANIFEST), listed(self.place, self._name(stage), MANIFEST)
        if there is not None and sha256_bytes(there).hex() == sha256_file(folder / MANIFEST):
            return
        if there is not None and StageManifest.parse(folder / MANIFEST, there).key != ours.key:
            withdraw(self.place, self._name(stage), MANIFEST)
        kept = {name: file.sha256 for name, file in ours.files.items() if (folder / name).exists()}
        if not publish(self.place, self._name(stage), folder, kept, MANIFEST):
            self.bring(stage, weights=True)

    def _name(self, stage: str) -> str:
        return f"{self.seed}/{stage}"
