"""What NVIDIA's config-manager does beside the device plugin: it takes the entry of a ConfigMap that the node's label names.

From the sources of k8s-device-plugin v0.18 (``cmd/config-manager``) and of GPU Operator, which puts it into the plugin's pod:

* An init container links the plugin's file to the entry that the label names; without label to the default one, else to
  what the fallbacks give. While that is not there the pod does not get beyond it, and it is started ever more slowly.
* A container watches the label. At a change it links the file to the new entry and sends the plugin SIGHUP. Where the entry is
  missing it ends, and is started ever more slowly; the plugin keeps what it has. (That the pod is not Ready meanwhile is
  not shown here.)
* The entries are files of a volume. The kubelet brings changes of the ConfigMap there late, and nobody tells the plugin: it
  reads them when it starts or is signalled the next time.
* An entry that is taken out of the ConfigMap while it is linked leaves a link to nothing. The container then fails at every
  change of the label, until the pod is made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

from hack.devcluster.client import Client
from hack.devcluster.errors import ApiError
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.objects import Object, dig, labels_of, namespace_of, uid_of

log = logging.getLogger(__name__)

NODE_LABEL = "nvidia.com/device-plugin.config"
INIT_CONTAINER, CONTAINER = "config-manager-init", "config-manager"
ENTRIES_AT = "/available-configs"
_NAMED_FALLBACK = "default"


class EntryError(Exception):
    """config-manager ends with this."""


class MountError(Exception):
    """The ConfigMap is not there; the kubelet tries again."""


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """What a pod of the device plugin says of its configurations."""

    namespace: str
    name: str
    default: str = ""
    fallbacks: tuple[str, ...] = ()

    @classmethod
    def of(cls, pod: Object) -> ConfigSource | None:
        """None where the plugin runs without config-manager."""
        manager = next((c for c in dig(pod, "spec.containers") or [] if c["name"] == CONTAINER), None)
        if manager is None:
            return None
        volume = next(mount["name"] for mount in manager.get("volumeMounts", []) if mount["mountPath"] == ENTRIES_AT)
        name = next(v["configMap"]["name"] for v in dig(pod, "spec.volumes") or [] if v["name"] == volume)
        said = {variable["name"]: variable.get("value", "") for variable in manager.get("env", [])}
        fallbacks = tuple(word for word in said.get("FALLBACK_STRATEGIES", "").split(",") if word)
        return cls(namespace_of(pod), name, said.get("DEFAULT_CONFIG", ""), fallbacks)

    def choose(self, label: str, entries: Mapping[str, str]) -> str:
        """The entry's name; empty for an empty configuration. Raises EntryError."""
        if not entries:
            raise EntryError("no configuration files available")
        asked = label or self.default
        if asked:
            if asked not in entries:
                raise EntryError(f"specified config {asked} does not exist")
            return asked
        for fallback in self.fallbacks:
            if fallback == "empty":
                return ""
            if fallback == "named" and _NAMED_FALLBACK in entries:
                return _NAMED_FALLBACK
            if fallback == "single" and len(entries) == 1:
                return next(iter(entries))
        raise EntryError("no config was set, no default was provided, and all fallbacks failed")


@dataclass(slots=True)
class _Volumes:
    """Those of one pod: the ConfigMap's entries as they were last brought, and the link to one of them (empty: to nothing at
    all, which is an empty file; None: not made yet). On disk, so that a restart of the kubelet changes nothing."""

    pod_uid: str
    entries: dict[str, str] = field(default_factory=dict)
    link: str | None = None

    @property
    def is_dangling(self) -> bool:
        return bool(self.link) and self.link not in self.entries


class ConfigManager:
    """``initialize`` is the init container, ``start`` and ``stop`` are the other's. ``signal`` tells the plugin to read anew."""

    def __init__(self, client: Client, settings: KubeletSettings, signal: Callable[[], None]) -> None:
        self._client = client
        self._settings = settings
        self._signal = signal
        self._record = settings.run_dir / "plugin-config"
        self._volumes = _restored(self._record)
        self._tasks: list[asyncio.Task[None]] = []

    def file(self) -> str:
        """What the plugin reads. Raises OSError where its link leads to nothing."""
        volumes = self._volumes
        if not volumes.link:
            return ""
        if volumes.is_dangling:
            raise OSError(f"unable to parse config file: no such file: {volumes.link}")
        return volumes.entries[volumes.link]

    async def initialize(self, pod: Object) -> None:
        """Raises MountError, and EntryError where the container fails."""
        source = ConfigSource.of(pod)
        volumes = self._volumes if self._volumes.pod_uid == uid_of(pod) else _Volumes(uid_of(pod))
        if source is None:
            self._keep(volumes)
            return
        volumes.entries = await self._entries(source)
        node = await self._client.get(f"/api/v1/nodes/{self._settings.node}")
        volumes.link = source.choose(labels_of(node).get(NODE_LABEL, ""), volumes.entries)
        self._keep(volumes)

    async def start(self, pod: Object) -> None:
        source = ConfigSource.of(pod)
        if source is not None and not self._tasks:
            self._tasks = [
                asyncio.create_task(self._bring_changes(source), name="config volume"),
                asyncio.create_task(self._live(source), name="config-manager"),
            ]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _live(self, source: ConfigSource) -> None:
        """Ended by each failure, and started anew by the kubelet: at once the first time, then ever more slowly."""
        restarts = 0
        while True:
            try:
                async for label in self._labels():
                    self._take(source, label)
            except EntryError as error:
                log.warning("config-manager.failed", extra={"error": str(error)})
            await asyncio.sleep(self._settings.crash_wait_s(restarts))
            restarts += 1

    async def _labels(self) -> AsyncIterator[str]:
        """The label as it is found, and after each change of it."""
        last: str | None = None
        query = {"fieldSelector": f"metadata.name={self._settings.node}"}
        async for change, what in self._client.list_and_watch("/api/v1/nodes", query):
            nodes = what if change == "LIST" else [what] if change in ("ADDED", "MODIFIED") else []
            for node in nodes:
                label = labels_of(node).get(NODE_LABEL, "")
                if label != last:
                    last = label
                    yield label

    def _take(self, source: ConfigSource, label: str) -> None:
        volumes = self._volumes
        entry = source.choose(label, volumes.entries)
        if volumes.is_dangling:
            raise EntryError("error creating symlink: file exists")
        if entry == volumes.link:
            return
        volumes.link = entry
        self._keep(volumes)
        self._signal()

    async def _bring_changes(self, source: ConfigSource) -> None:
        while True:
            await asyncio.sleep(self._settings.config_sync_s)
            with contextlib.suppress(MountError, ApiError, aiohttp.ClientError, TimeoutError):
                self._volumes.entries = await self._entries(source)
                self._keep(self._volumes)

    async def _entries(self, source: ConfigSource) -> dict[str, str]:
        try:
            found = await self._client.get(f"/api/v1/namespaces/{source.namespace}/configmaps/{source.name}")
        except ApiError as error:
            if error.code != 404:
                raise
            raise MountError(f'MountVolume.SetUp failed for volume "{source.name}" : {error.message}') from error
        return dict(found.get("data") or {})

    def _keep(self, volumes: _Volumes) -> None:
        self._volumes = volumes
        draft = self._record.with_suffix(".new")
        draft.write_text(json.dumps(asdict(volumes)))
        os.replace(draft, self._record)


def _restored(record: Path) -> _Volumes:
    if not record.exists():
        return _Volumes("")
    return _Volumes(**json.loads(record.read_text()))
