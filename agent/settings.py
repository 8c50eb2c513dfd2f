"""What an administrator sets: a file, over it the environment, over it flags. Frozen, validated, units in the names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from agent.model.demand import Allowed
from agent.model.errors import BadInputError
from agent.model.fleet import Limit, Window
from agent.model.text import read_yaml

ENVIRONMENT_PREFIX = "WARMSLICE_"
DEFAULT_FILE = "/etc/warmslice/settings.yaml"
_WORDS = ("prewarm", "dcgm_exporter")
"""Settings that may be off, and are no booleans."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every setting, with its default. Each may stand in the file, as WARMSLICE_<NAME>, or as --<name> on the command line."""

    node_name: str = ""
    """Name of our node object; also read from NODE_NAME."""
    role: Literal["partition", "cache", "all"] = "all"
    """Which loops run in this process."""
    kubeconfig: str | None = None
    """Kubeconfig file; without it $KUBECONFIG, then the pod's service account."""
    mig_config_label: str = "nvidia.com/mig.config"
    """Label that holds the node's wish."""
    layouts_file: str = "/etc/warmslice/layouts.yaml"
    """Named layouts in mig-parted's v1 format."""
    catalog_file: str = "/etc/warmslice/catalog.yaml"
    """Models and model sets."""
    pod_resources_socket: str = "/var/lib/kubelet/pod-resources/kubelet.sock"
    """The kubelet's PodResources socket."""
    boot_id_file: str = "/proc/sys/kernel/random/boot_id"
    """Where the kernel says which boot this is."""
    proc_directory: str = "/proc"
    """Where the kernel shows the host's processes: it tells in which pod one runs."""
    device_directory: str = "/dev"
    """Where the host's device nodes are: `warmslice doctor --here` looks for those of the driver's capabilities."""
    state_directory: str = "/var/lib/warmslice/state"
    """Where the partition role keeps its history of the slices' use, for `warmslice advise`; and `warmslice apply` its record, on
    a host without Kubernetes."""
    cache_directory: str = "/var/lib/warmslice/hub"
    """The hub cache on local SSD."""
    cache_budget_bytes: int | None = None
    """Most bytes that cached models may take; without it, free space alone counts."""
    cache_reserve_ratio: float = 0.15
    """Share of the file system that a fetch leaves free, beside the budget. Below 10 to 15 % free the kubelet begins to evict
    pods (its defaults for nodefs and imagefs)."""
    cache_keep_revisions: int = 1
    """How many earlier revisions of a repository stay on disk once a wanted one is complete, while there is room."""
    scrub_days: float = 7.0
    """Within how many days each blob is read from disk again and compared with its hash; 0: never."""
    scrub_bytes_per_second: int = 50_000_000
    """Most bytes of blobs that are read again in a second."""
    pressure_file: str = "/proc/pressure/io"
    """Where the kernel says how long tasks wait for I/O: reading again pauses while that is long."""
    page_cache_ratio: float = 0.5
    """Share of the memory that is available which weights of models with `page_cache: true` may take."""
    meminfo_file: str = "/proc/meminfo"
    """Where the kernel says how much memory is available."""
    memory_pressure_file: str = "/proc/pressure/memory"
    """Where the kernel says how long tasks wait for memory: nothing is read into it while that is long."""
    fetch_connections: int = 16
    """Most connections over which a fetch brings its bytes: 8 at once, the others where each is slow. Hubs slow down who has
    many more than 16."""
    fetch_bytes_per_second: int | None = None
    """Most bytes that fetches together bring over the network in a second; without it, as fast as it goes."""
    fetch_at_once: int = 0
    """Most nodes that fetch the same model at once; 0 is no limit. The others wait for one of so many Leases of the model. With a
    mirror that has to fetch it first, 1 or 2. The same on all nodes."""
    fetch_xet: bool = False
    """Take files that the hub has in its Xet store from there, with hf-xet. Ranges are faster here, and take less memory."""
    hub_endpoint: str | None = None
    """The hub or a mirror of it; without it https://huggingface.co."""
    hub_token_file: str | None = None
    """File with the hub's token."""
    hub_tokens_directory: str | None = None
    """Directory with a file for each further token that a model of the catalog may name."""
    require_safetensors: bool = False
    """Refuse models that have their weights as pickles only: reading one runs whatever code is in it."""
    prewarm: Literal["off", "declared", "auto"] = "off"
    """Whether workloads say which models come first. off: only the catalog counts. declared: a workload that names a model of
    the catalog brings it forward. auto: what workloads name is fetched too, as far as prewarm_allow goes. The same on all
    nodes."""
    prewarm_allow: dict[str, list[str]] = {}
    """With auto: which models the workloads of a namespace may have fetched, as patterns of models by pattern of namespaces, such
    as {"serving-*": ["meta-llama/*", "Qwen/*"]}. Whoever may make a pod there may have these fetched with the hub's token."""
    prewarm_most: int = 32
    """Most models on a node that workloads want and the catalog does not: the most urgent ones. Each has a label."""
    partition_listen: str = "0.0.0.0:9470"
    """Address of /metrics, /healthz and /readyz of the partition role."""
    cache_listen: str = "0.0.0.0:9471"
    """The same of the cache role."""
    page_token_file: str | None = None
    """File with a token that the status page, its API and /metrics ask for, as bearer token or as password; without it they ask
    for none. /healthz and /readyz never do."""
    tls_certificate_file: str | None = None
    """Certificate chain (PEM) of all that is served here, with tls_key_file; without them it is plain HTTP."""
    tls_key_file: str | None = None
    """Key of that certificate (PEM, without a password)."""
    status_socket: str = "/run/warmslice/cache.sock"
    """Unix socket on which the cache role tells its part of the status page to the partition role; empty: it does not."""
    telemetry_period_seconds: float = 10.0
    """How often slices are sampled."""
    gpu_prices: dict[str, float] = {}
    """What an hour of a GPU costs, by pattern of its model's name, such as {"NVIDIA H100*": 2.5, "*": 1}; the first that matches
    counts. In any currency: it is multiplied only."""
    dcgm_exporter: str = "auto"
    """Where GPUs without GPM get the load of their slices. auto: of a dcgm-exporter that a DaemonSet runs on this node; off: of
    none; else its URL, such as http://127.0.0.1:9400/metrics."""
    dcgm_exporter_interval_seconds: float = 30.0
    """How often that exporter collects (its DCGM_EXPORTER_INTERVAL, in seconds): a new slice has no load for twice as long."""
    dcgm_names: bool = False
    """Whether slices and GPUs are shown under the names and labels of dcgm-exporter too, for dashboards made for it."""
    resync_seconds: float = 300.0
    """The longest time between two passes when nothing happens."""
    reconnect_jitter_seconds: float = 10.0
    """Within so many seconds, at a random time, a watch that broke off is opened again, and one whose past the API server has
    forgotten lists again. Thousands of nodes that lose one API server do not come back in one second. Let it grow with the fleet:
    100 for ten thousand."""
    before_commands: list[list[str]] = []
    """Commands run before slices are destroyed or made: services of the host let go of the GPUs. They may run again."""
    refresh_commands: list[list[str]] = []
    """Commands run after slices were made, or were to be made: capability nodes, CDI, the services stopped before."""
    command_timeout_seconds: float = 60.0
    """How long each of these commands may take."""
    reboot_command: list[str] = []
    """Command that drains this node and reboots its machine, where nothing else brings a MIG mode; without it a human has to."""
    reboot_timeout_seconds: float = 600.0
    """How long that command may take, and the machine to go."""
    evict_unmanaged: bool = False
    """Whether pods without a controller may be evicted."""
    evict_disk_scratch: bool = False
    """Whether pods with emptyDir data on disk may be evicted."""
    wait_for_jobs_seconds: float = 0.0
    """How long pods of a Job are waited for, since the wish first waited for one, before they are evicted; 0: they are not."""
    drain_seconds: float = 3600.0
    """How long the pods of a change have to go before it goes back, and is tried again later; 0: as long as they take. Meanwhile
    the node is cordoned, so an hour: longer than nearly every grace period, and a budget that never opens costs no more."""
    patience_seconds: float = 300.0
    """How long a change waits for what ends by itself or never (a busy device, a failing driver, a GPU or kubelet that does not
    answer) before it goes back, and how long the way back waits before it ends without that GPU."""
    advertise_seconds: float = 300.0
    """How long a change waits for the node to show its layout before it is called failed."""
    max_unavailable: int | str = 0
    """Most nodes that are in change at once, a number or per cent of the labelled nodes (10%, at least one node); 0 is no
    limit. The same on all nodes."""
    maintenance_window: str = ""
    """When changes may begin where max_unavailable is set, such as "Mon-Fri 22:00-06:00 Europe/Berlin"; days and zone (UTC) may
    be left out. A change that has begun goes on."""
    cache_aware: bool = False
    """Whether a change that takes slices away waits until the gated models of this node (gate: true) are on its disk."""
    gate_seconds: float = 600.0
    """How long the start-up taint warmslice.dev/warming stays at most, whatever is missing on the node."""
    namespace: str = "warmslice"
    """The agents' namespace, where their Leases are."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log that is written."""

    @property
    def roles(self) -> frozenset[str]:
        """The loops that run here."""
        return frozenset({"partition", "cache"}) if self.role == "all" else frozenset({self.role})

    @property
    def allowed(self) -> Allowed | None:
        """What workloads may have fetched that the catalog does not name; None where nothing."""
        if self.prewarm != "auto":
            return None
        return Allowed({space: tuple(models) for space, models in self.prewarm_allow.items()})

    @property
    def limit(self) -> Limit:
        """How many nodes may be in change at once."""
        return Limit.parse(self.max_unavailable)

    @property
    def window(self) -> Window | None:
        """When changes may begin; None for always."""
        return Window.parse(self.maintenance_window) if self.maintenance_window else None


def load(file: str | None, environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """Read settings. ``file`` None means the default one, if it is there. BadInputError names the field and the mistake."""
    return _checked(_from_file(file), environment, flags)


def read(text: str, source: str, environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """The same of a file that is not here; ``source`` is what it is called."""
    try:
        document = read_yaml(text)
    except BadInputError as error:
        raise BadInputError(f"settings file {source}: {' '.join(str(error).split())}") from error
    return _checked(_known(document, source), environment, flags)


def _checked(values: dict[str, Any], environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    if "node_name" not in values and environment.get("NODE_NAME"):
        values["node_name"] = environment["NODE_NAME"]
    for name in Settings.__struct_fields__:
        text = environment.get(ENVIRONMENT_PREFIX + name.upper())
        if text is not None:
            values[name] = _value(name, text, ENVIRONMENT_PREFIX + name.upper())
    for name, text in flags.items():
        values[name] = _value(name, text, "--" + name.replace("_", "-"))
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise BadInputError(f"settings: {error}") from error
    for name in (
        "telemetry_period_seconds",
        "dcgm_exporter_interval_seconds",
        "resync_seconds",
        "patience_seconds",
        "advertise_seconds",
        "command_timeout_seconds",
        "reboot_timeout_seconds",
        "gate_seconds",
    ):
        if not getattr(settings, name) > 0:  # .nan is no number of seconds either
            raise BadInputError(f"settings: {name} is {getattr(settings, name)}; it must be more than 0")
    if not 0 <= settings.fetch_at_once <= 1000:
        raise BadInputError(
            f"settings: fetch_at_once is {settings.fetch_at_once}; it must be from 1 to 1000 nodes, or 0 for no limit"
        )
    # A server that is away, or forgets at once, must not be asked in a hot loop.
    if not 0.5 <= settings.reconnect_jitter_seconds <= 600:
        raise BadInputError(
            f"settings: reconnect_jitter_seconds is {settings.reconnect_jitter_seconds}; it must be from 0.5 to 600"
        )
    for name in ("wait_for_jobs_seconds", "drain_seconds"):
        if not getattr(settings, name) >= 0:
            raise BadInputError(f"settings: {name} is {getattr(settings, name)}; it must be 0 or more")
    if settings.cache_budget_bytes is not None and settings.cache_budget_bytes < 0:
        raise BadInputError(f"settings: cache_budget_bytes is {settings.cache_budget_bytes}; it must be 0 or more")
    if not settings.scrub_days >= 0:
        raise BadInputError(f"settings: scrub_days is {settings.scrub_days}; it must be 0 or more")
    if settings.scrub_bytes_per_second < 1:
        rate = settings.scrub_bytes_per_second
        raise BadInputError(
            f"settings: scrub_bytes_per_second is {rate}; it must be 1 or more (scrub_days: 0 for never)"
        )
    if settings.cache_keep_revisions < 0:
        raise BadInputError(f"settings: cache_keep_revisions is {settings.cache_keep_revisions}; it must be 0 or more")
    if not 1 <= settings.fetch_connections <= 64:
        raise BadInputError(f"settings: fetch_connections is {settings.fetch_connections}; it must be from 1 to 64")
    if settings.fetch_bytes_per_second is not None and settings.fetch_bytes_per_second < 1:
        raise BadInputError(
            f"settings: fetch_bytes_per_second is {settings.fetch_bytes_per_second}; it must be 1 or more, or not set"
        )
    if not 0 <= settings.cache_reserve_ratio < 1:
        ratio = settings.cache_reserve_ratio
        raise BadInputError(f"settings: cache_reserve_ratio is {ratio}; it must be 0 or more and less than 1")
    _check_prewarm(settings)
    _check_page(settings)
    for model, price in settings.gpu_prices.items():
        if not 0 <= price < float("inf"):
            raise BadInputError(f"settings: gpu_prices of {model!r} is {price}; it must be 0 or more")
    _check_dcgm(settings.dcgm_exporter)
    if not 0 <= settings.page_cache_ratio <= 1:
        raise BadInputError(f"settings: page_cache_ratio is {settings.page_cache_ratio}; it must be from 0 to 1")
    _check_fleet(settings)
    return settings


def _check_prewarm(settings: Settings) -> None:
    if settings.prewarm == "auto" and not settings.prewarm_allow:
        raise BadInputError(
            'settings: prewarm is auto and prewarm_allow is empty; it must say what may be fetched, such as {"*": ["org/*"]}'
        )
    if settings.prewarm_most < 0:
        raise BadInputError(f"settings: prewarm_most is {settings.prewarm_most}; it must be 0 or more")


def _check_dcgm(exporter: str) -> None:
    if exporter in ("auto", "off"):
        return
    try:
        url = urlsplit(exporter)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and "@" not in url.netloc
    except ValueError:  # a port that is no number, a bracket that is not closed
        usable = False
    if not usable:
        raise BadInputError(
            f"settings: dcgm_exporter is {_without_user(exporter)!r}; it must be auto, off, or a URL without a user, such as "
            "http://127.0.0.1:9400/metrics"
        )


def _without_user(url: str) -> str:
    """What is before an @ may be a password."""
    return url if "@" not in url else f"...@{url.rpartition('@')[2]}"


def _check_page(settings: Settings) -> None:
    pair = ("tls_certificate_file", "tls_key_file")
    for name, other in (pair, pair[::-1]):
        if getattr(settings, name) and not getattr(settings, other):
            raise BadInputError(
                f"settings: {name} is {getattr(settings, name)} and {other} is not set; set both or none"
            )


def _check_fleet(settings: Settings) -> None:
    try:
        limit, window = settings.limit, settings.window
    except BadInputError as error:
        raise BadInputError(f"settings: {error}") from error
    if limit.none and window is not None:
        raise BadInputError(
            "settings: maintenance_window is set and max_unavailable is 0; nobody grants anything without a limit, set one"
        )
    if not settings.namespace:
        raise BadInputError("settings: namespace is empty; it must be that of the agents")


def _from_file(file: str | None) -> dict[str, Any]:
    path = Path(file or DEFAULT_FILE)
    if file is None and not path.exists():
        return {}
    try:
        document = read_yaml(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, BadInputError) as error:
        raise BadInputError(f"settings file {path}: {' '.join(str(error).split())}") from error
    return _known(document, str(path))


def _known(document: Any, source: str) -> dict[str, Any]:
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise BadInputError(f"settings file {source}: expected a mapping of settings")
    unknown = [name for name in document if name not in Settings.__struct_fields__]
    if unknown:
        raise BadInputError(
            f"settings file {source}: unknown setting {unknown[0]!r}; known are {', '.join(Settings.__struct_fields__)}"
        )
    # YAML takes a bare off for false.
    return {name: "off" if value is False and name in _WORDS else value for name, value in document.items()}


def _value(name: str, text: str, where: str) -> Any:
    """Text as the type of its setting; lists, mappings and numbers are read as YAML."""
    kind = Settings.__annotations__[name]
    if ("str" in kind and "[" not in kind) or "Literal" in kind:
        return text
    try:
        return read_yaml(text)
    except BadInputError as error:
        raise BadInputError(f"{where}: {text!r} is not a value for {name}") from error


def from_process(file: str | None, flags: Mapping[str, str]) -> Settings:
    """Settings of this process."""
    return load(file, os.environ, flags)
