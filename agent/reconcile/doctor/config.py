"""What the agents of a cluster are configured with, read from their ConfigMaps as they would read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from agent import settings as settings_file
from agent.adapters.inspection import Inspection
from agent.desired.catalog import read_catalog
from agent.desired.layout_file import LayoutFile, read_layouts
from agent.desired.meaning import resources_made
from agent.model.catalog import Catalog, CatalogRefusal
from agent.model.cluster_view import AgentConfig, DaemonSet
from agent.model.errors import BadInputError
from agent.settings import Settings


async def texts(look: Inspection, agents: DaemonSet) -> tuple[dict[str, str], tuple[str, ...], bool]:
    """(files of the ConfigMaps that it mounts by their name, ConfigMaps that are not there, whether one could not be read)."""
    found: dict[str, str] = {}
    missing: list[str] = []
    unread = False
    for name in dict.fromkeys(name for mount in agents.mounts for name in mount.config_maps):
        path = f"/api/v1/namespaces/{agents.namespace}/configmaps/{name}"
        known, item = await look.found(f"ConfigMap {agents.namespace}/{name}", path)
        unread = unread or not known
        if item is not None:
            found |= item.get("data") or {}
        elif known:
            missing.append(name)
    return found, tuple(missing), unread


def config_of(
    agents: DaemonSet, texts: Mapping[str, str], missing: tuple[str, ...], unread: bool
) -> tuple[AgentConfig, LayoutFile | None, Settings]:
    """As an agent of that DaemonSet reads it."""
    settings, settings_error = _settings(agents, texts)
    layouts = texts.get(PurePosixPath(settings.layouts_file).name)
    file = read_layouts(layouts) if layouts is not None else None
    layouts_error = file.mistakes[0].at(settings.layouts_file) if file is not None and file.mistakes else ""
    if layouts_error:
        file = None
    text = texts.get(PurePosixPath(settings.catalog_file).name)
    catalog = read_catalog(text) if text is not None else None
    if layouts is None and not unread and not missing:
        file = LayoutFile({}, {})
    config = AgentConfig(
        settings_error=settings_error,
        layouts_error=layouts_error,
        catalog_error=catalog.message if isinstance(catalog, CatalogRefusal) else "",
        catalog=catalog if isinstance(catalog, Catalog) else None,
        missing=missing,
        label_key=settings.mig_config_label,
        prewarm=settings.prewarm != "off",
        refreshes=bool(settings.refresh_commands),
        cache_host_path=_host_path(agents, settings.cache_directory),
        state_host_path=_host_path(agents, settings.state_directory),
        open_to_cache=_open_to_cache(agents),
        layouts=resources_made(file),
    )
    return config, file, settings


def _settings(agents: DaemonSet, texts: Mapping[str, str]) -> tuple[Settings, str]:
    """(what the agents run with, the mistake in it); with a mistake the defaults."""
    environment: dict[str, str] = {}
    flags: dict[str, str] = {}
    for container in agents.containers:
        environment |= container.env
        flags |= _flags(container.args)
    try:
        name = PurePosixPath(settings_file.DEFAULT_FILE).name
        return settings_file.read(texts.get(name, ""), name, environment, flags), ""
    except BadInputError as error:
        return Settings(), str(error)


def _flags(arguments: Iterable[str], *names: str) -> dict[str, str]:
    """``--name=value`` and ``--name value``, of settings of these names; by default of all but the role, which says nothing of
    what both containers share."""
    found: dict[str, str] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            written, given, value = argument.removeprefix("--").partition("=")
            name = written.replace("-", "_")
            if given:
                found[name], name = value, ""
        elif name:
            found[name] = argument
            name = ""
    known = names or tuple(name for name in Settings.__struct_fields__ if name != "role")
    return {key: value for key, value in found.items() if key in known}


def _host_path(agents: DaemonSet, directory: str) -> str:
    """Where on the node a directory of the container is; empty where that is no directory of the node's."""
    inside = PurePosixPath(directory)
    ways = [mount for mount in agents.mounts if mount.host_path and inside.is_relative_to(mount.path)]
    if not ways:
        return ""
    best = max(ways, key=lambda mount: len(mount.path))
    return str(PurePosixPath(best.host_path) / inside.relative_to(best.path))


def _open_to_cache(agents: DaemonSet) -> tuple[str, ...]:
    """Where both loops are one process there is nothing to hold apart."""
    alone = {one.name for one in agents.containers if _flags(one.args, "role").get("role") == "cache"}
    return tuple(m.host_path for m in agents.mounts if m.container in alone and m.host_path and not m.read_only)


async def token_fault(look: Inspection, agents: DaemonSet, catalog: Catalog | None, settings: Settings) -> str:
    """Why a token that the catalog names cannot be had; its value is not read, so whether the key is there is not known."""
    named = [model for model in catalog.models.values() if model.token] if catalog is not None else []
    if not named:
        return ""
    said = f"model {named[0].name} of the catalog names the token {named[0].token!r}"
    directory = settings.hub_tokens_directory
    if directory is None:
        return f"{said}, and the setting hub_tokens_directory is not set"
    mount = next((m for m in agents.mounts if m.secret and PurePosixPath(directory).is_relative_to(m.path)), None)
    if mount is None:
        return f"{said}, and no Secret is mounted at hub_tokens_directory, {directory}"
    path = f"/api/v1/namespaces/{agents.namespace}/secrets/{mount.secret}"
    there = await look.exists(f"Secret {agents.namespace}/{mount.secret}", path)
    return f"{said}, and the Secret {agents.namespace}/{mount.secret} is not there" if there is False else ""
