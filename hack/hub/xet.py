"""A Xet store in a folder (``local://FOLDER``), which hf-xet itself fills and reads: no server speaks for it.

The hub names a file's content in the store by ``X-Xet-Hash`` and in the listing by ``xetHash``; a client asks
``/xet-read-token/`` where the store is, and takes the bytes from there instead of through the redirect.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hf_xet

_TOKEN_SECONDS = 900


@dataclass(slots=True)
class XetStore:
    """``folder`` is made where it is missing, and has to be readable by the clients: they open it themselves."""

    folder: Path
    _session: Any = field(default_factory=hf_xet.XetSession)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"local://{self.folder.resolve()}"

    def put(self, source: Path, sha256: str) -> str:
        """Chunk, deduplicate and store the file; returns its name there (64 hex digits)."""
        with self._session.new_upload_commit(endpoint=self.url) as commit:
            upload = commit.start_upload_file(str(source), sha256=sha256)
        return str(upload.result().xet_info.hash)

    def connection(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Headers and JSON of a read token's answer: hf-xet reads the JSON, huggingface_hub the headers."""
        expires = int(time.time()) + _TOKEN_SECONDS
        token = "xet-read"
        headers = {"X-Xet-Cas-Url": self.url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
        return headers, {"casUrl": self.url, "accessToken": token, "exp": expires}
