"""A pod's volumes as folders of this machine."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Object = dict[str, Any]
Get = Callable[[str, str], Object]
"""The object of that kind and name in the pod's namespace; empty where it is not there."""

_KINDS = {"configMap": ("configmap", "name"), "secret": ("secret", "secretName")}


class MountError(Exception):
    """The volume cannot be laid out; the pod would wait for it."""


class Configured:
    """Volumes out of ConfigMaps and Secrets. What is changed there is there after ``refresh``, all at once, as the kubelet
    does it: files are links into ``..data``, which is a link to what counts."""

    def __init__(self, get: Get) -> None:
        self._get = get
        self._volumes: list[tuple[Path, list[tuple[str, Object]], int]] = []

    def add(self, folder: Path, sources: list[tuple[str, Object]], mode: int) -> None:
        """``sources``: kind and reference."""
        folder.mkdir(parents=True)
        self._volumes.append((folder, sources, mode))
        self._write(folder, sources, mode)

    def refresh(self) -> None:
        for volume in self._volumes:
            self._write(*volume)

    def _write(self, folder: Path, sources: list[tuple[str, Object]], mode: int) -> None:
        wanted: dict[str, bytes] = {}
        for kind, reference in sources:
            wanted |= self._content(kind, reference)
        data = folder / "..data"
        if data.exists() and {one.name: one.read_bytes() for one in data.iterdir()} == wanted:
            return
        old = data.resolve() if data.exists() else None
        fresh = folder / f"..{len(list(folder.iterdir()))}_{os.urandom(4).hex()}"
        fresh.mkdir()
        for name, content in wanted.items():
            (fresh / name).write_bytes(content)
            (fresh / name).chmod(mode)
        link = folder / "..data_tmp"
        link.symlink_to(fresh.name)
        link.replace(data)
        for name in wanted:
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")
        if old is not None:
            shutil.rmtree(old)

    def _content(self, kind: str, reference: Object) -> dict[str, bytes]:
        resource, key = _KINDS[kind]
        name = reference.get(key) or reference["name"]
        found = self._get(resource, name)
        if not found and not reference.get("optional"):
            raise MountError(f"{resource} {name!r} not found")
        content = {name: text.encode() for name, text in (found.get("data") or {}).items()}
        if kind == "secret":
            content = {name: base64.b64decode(text) for name, text in content.items()}
        items = reference.get("items")
        return content if items is None else {one["path"]: content[one["key"]] for one in items}


def laid_out(volume: Object, host: Path, run: Path, configured: Configured) -> Path:
    """Where it is. MountError; ValueError for a kind of volume that is not known here."""
    name = volume["name"]
    own: Path = run / name
    match volume:
        case {"hostPath": {"path": path, **rest}}:
            return _of_the_host(host / str(path).lstrip("/"), str(rest.get("type") or ""))
        case {"emptyDir": _}:
            own.mkdir(parents=True)
            own.chmod(0o777)
        case {"projected": {"sources": sources}}:
            configured.add(own, [(kind, reference) for one in sources for kind, reference in one.items()], 0o644)
        case {"configMap": reference}:
            configured.add(own, [("configMap", reference)], reference.get("defaultMode", 0o644))
        case {"secret": reference}:
            configured.add(own, [("secret", reference)], reference.get("defaultMode", 0o644))
        case _:
            raise ValueError(f"volume {name!r}: {sorted(volume)} is not known here")
    return own


def _of_the_host(path: Path, kind: str) -> Path:
    if kind.endswith("OrCreate"):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif kind == "Directory" and not path.is_dir():
        raise MountError(f"hostPath type check failed: {path} is not a directory")
    return path
