"""A device plugin that misbehaves, as long as the file ``plugin-fault`` in its node's folder names how:

* ``crash``: its process ends, and the next ones as well.
* ``ListAndWatch``: it registers and then does not say which devices there are. One that has said so stays believed.
* ``Allocate``: it does not answer. The real kubelet waits without a deadline, in the one loop that takes notice of pods
  (from memory of ``devicemanager/endpoint.go`` and ``kubelet.go`` of 1.34): until the answer comes, or the plugin's end
  breaks the call off, no pod of the node is started or stopped, while the node goes on reporting itself ready.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

CRASH, SILENT, STUCK = "crash", "ListAndWatch", "Allocate"
_LOOKS_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class PluginFault:
    file: Path

    def is_now(self, word: str) -> bool:
        return self.file.exists() and self.file.read_text().strip() == word

    async def wait_for_begin(self, word: str) -> None:
        while not self.is_now(word):  # noqa: ASYNC110  a file tells nobody when it changes
            await asyncio.sleep(_LOOKS_EVERY_S)

    async def wait_for_end(self, word: str) -> None:
        while self.is_now(word):  # noqa: ASYNC110
            await asyncio.sleep(_LOOKS_EVERY_S)
