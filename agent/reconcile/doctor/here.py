"""Looks at this host, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

from agent.adapters.files import TextFile, token_reader
from agent.adapters.mounts import directory
from agent.desired.layout_file import read_layouts
from agent.model.catalog import CatalogRefusal
from agent.model.errors import BadInputError
from agent.model.host_view import HostView
from agent.observe.host_view import (
    capabilities,
    devices_of_host,
    is_root,
    look_at_driver,
    look_at_kubelet,
    missing,
    sees_host_pids,
    unreadable,
)
from agent.reconcile.catalog import Wish, read_wish
from agent.settings import Settings

_PARTITION, _CACHE = "partition", "cache"


async def host_view(settings: Settings) -> HostView:
    """What the loops of ``settings.role`` need of this host, as it is now."""
    partition = _PARTITION in settings.roles
    nvml_error, driver, gpus, minors = await look_at_driver() if partition else ("", "", (), {})
    proc = Path(settings.proc_directory)
    wish = _wish(settings)
    return HostView(
        roles=settings.roles,
        root=is_root(),
        host_pids=sees_host_pids(proc),
        nvml_error=nvml_error,
        driver=driver,
        gpus=gpus,
        capabilities=capabilities(gpus, minors, proc, devices_of_host(proc, settings.device_directory)),
        kubelet=await look_at_kubelet(settings.pod_resources_socket) if partition else "",
        cache=directory(settings.cache_directory, proc / "self" / "mountinfo"),
        reserve_ratio=settings.cache_reserve_ratio,
        state_directory=settings.state_directory,
        missing_pressure=missing((settings.pressure_file, settings.memory_pressure_file)),
        unreadable=tuple(unreadable(_named(settings), ("page_token_file", "tls_certificate_file", "tls_key_file"))),
        layouts_error=_layouts_error(settings) if partition else "",
        catalog_error=wish.message if isinstance(wish, CatalogRefusal) else "",
        token_fault=_token_fault(settings, wish) if isinstance(wish, Wish) else "",
    )


def _named(settings: Settings) -> dict[str, str | None]:
    names = ["page_token_file", "tls_certificate_file", "tls_key_file"]
    names += ["layouts_file"] if _PARTITION in settings.roles else []
    names += ["catalog_file", "hub_token_file"] if _CACHE in settings.roles else []
    return {name: getattr(settings, name) for name in names}


def _layouts_error(settings: Settings) -> str:
    try:
        read = read_layouts(Path(settings.layouts_file).read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return ""  # that it cannot be read is said of the file; without one inline layouts do
    return read.mistakes[0].at(settings.layouts_file) if read.mistakes else ""


def _wish(settings: Settings) -> Wish | CatalogRefusal | None:
    """Of a node without labels: what names the tokens is the same for each."""
    if _CACHE not in settings.roles or not Path(settings.catalog_file).is_file():
        return None
    return read_wish(TextFile(Path(settings.catalog_file)), {})


def _token_fault(settings: Settings, wish: Wish) -> str:
    read = token_reader(settings.hub_token_file, settings.hub_tokens_directory)
    for model in wish.catalog.models.values():
        try:
            read(model.token)
        except BadInputError as error:
            return f"model {model.name}: {error}"
    return ""
