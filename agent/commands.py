"""Commands that open a door of their own: the status of a node, the cache of this host."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.adapters import clock
from agent.adapters.files import TextFile, token_reader
from agent.adapters.kube import Kube, node_path
from agent.model import labels
from agent.model.cache import FetchProgress
from agent.model.catalog import CatalogModel, CatalogRefusal
from agent.model.errors import BadInputError
from agent.model.operation import Operation
from agent.model.report import NodeStatus
from agent.reconcile.cache import CacheRules, list_cached, pull, read_wanted, verify_cached
from agent.settings import Settings

Say = Callable[[str], None]


async def print_status(node: str, kubeconfig: str | None, as_json: bool) -> tuple[int, str]:
    """What the agent says of a node; exit code 1 when its last word is ``failed``."""
    kube = await Kube.connect(kubeconfig)
    try:
        found = await kube.get(node_path(node))
    finally:
        await kube.close()
    metadata = found["metadata"]
    known, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    status = NodeStatus.from_json(annotations.get(labels.STATUS, "null"))
    operation = annotations.get(labels.OPERATION)
    models = {k.removeprefix(labels.MODEL_PREFIX): v for k, v in known.items() if k.startswith(labels.MODEL_PREFIX)}
    code = 1 if status is not None and status.state == "failed" else 0
    if as_json:
        return code, json.dumps(_document(status, operation, models), indent=2)
    rows = [f"node     {node}", f"layout   {known.get(labels.CONFIG, '(no label)')}"]
    if status is None:
        rows.append("state    the agent has said nothing yet")
    else:
        rows += [
            f"state    {status.state} since {_time(status.since)}",
            f"reason   {status.reason}: {status.message}",
        ]
        rows += [f"GPU      {uuid}  {' '.join(slots) or '(empty)'}" for uuid, slots in status.placements.items()]
        rows += [f"retry    {_time(status.next_try)}"] if status.next_try is not None else []
    if operation:
        rows.append(f"change   {_change(operation)}")
    rows += [f"model    {name}  {state}" for name, state in sorted(models.items())]
    return code, "\n".join(rows)


async def cache_command(settings: Settings, action: str, names: Sequence[str], say: Say) -> int:
    """``cache pull|ls|verify`` for the catalog's models, or those named; exit code 1 when one is not as it should be."""
    rules = CacheRules(
        Path(settings.cache_directory), settings.hub_endpoint, settings.cache_budget_bytes, settings.cache_reserve_ratio
    )
    wanted = _chosen(settings, names)
    match action:
        case "pull":
            token = token_reader(settings.hub_token_file)
            ended = await pull(rules, wanted, token, clock.now, lambda progress: say(_progress(progress)))
            for name, why in ended.items():
                say(f"{name}: {why or 'ready'}")
            return int(any(ended.values()))
        case "verify":
            wrong = verify_cached(rules, wanted)
            for name, why in wrong.items():
                say(f"{name}: {why or 'good'}")
            return int(any(wrong.values()))
        case _:
            found = list_cached(rules, wanted)
            for model in wanted:
                cached = found[model.name]
                state = "ready" if cached.complete else f"not ready: {cached.lacking}"
                label = f"{labels.MODEL_PREFIX}{model.name}"
                say(f"{label}  {model.repository}@{model.revision}  {cached.size_bytes / 1e9:.2f} GB  {state}")
            return 0


def _chosen(settings: Settings, names: Sequence[str]) -> tuple[CatalogModel, ...]:
    wanted = read_wanted(TextFile(Path(settings.catalog_file)), {})
    if isinstance(wanted, CatalogRefusal):
        raise BadInputError(f"{settings.catalog_file}: {wanted.message}")
    unknown = sorted(set(names) - {model.name for model in wanted})
    if unknown:
        known = ", ".join(model.name for model in wanted) or "none"
        raise BadInputError(f"model {unknown[0]!r} is not in {settings.catalog_file}; it has {known}")
    return tuple(model for model in wanted if not names or model.name in names)


def _progress(progress: FetchProgress) -> str:
    share = progress.fetched_bytes / progress.size_bytes if progress.size_bytes else 0.0
    return (
        f"{progress.model.name}: {progress.fetched_bytes / 1e6:.0f} of {progress.size_bytes / 1e6:.0f} MB ({share:.0%})"
    )


def _document(status: NodeStatus | None, operation: str | None, models: dict[str, str]) -> dict[str, Any]:
    return {
        "status": json.loads(status.to_json()) if status is not None else None,
        "operation": _plain(operation) if operation else None,
        "models": models,
    }


def _change(operation: str) -> str:
    """In words; a record that cannot be read is when people look here first."""
    try:
        record = Operation.from_json(operation)
    except BadInputError as error:
        return str(error)
    return f"{record.id} to {record.layout!r} since {_time(record.started)}"


def _plain(operation: str) -> Any:
    """As the annotation has it; its text where that is no JSON."""
    try:
        return json.loads(operation)
    except ValueError:
        return operation


def _time(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds or 0.0, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
