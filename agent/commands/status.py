"""`warmslice status`: how a node stands, by what the agent says of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from agent.adapters.kube import Kube, node_path
from agent.model import labels
from agent.model.cold_start import Ledger
from agent.model.errors import BadInputError
from agent.model.gate import Gate
from agent.model.operation import Operation
from agent.model.report import NodeStatus
from agent.report.cold_starts import starts_table
from agent.settings import Settings


async def print_status(node: str, settings: Settings, as_json: bool) -> tuple[int, str]:
    """What the agent says of a node; exit code 1 when its last word is ``failed``."""
    kube = await Kube.connect(settings.kubeconfig)
    try:
        found = await kube.get(node_path(node))
    finally:
        await kube.close()
    metadata = found["metadata"]
    known, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    status = NodeStatus.from_json(annotations.get(labels.STATUS, "null"))
    operation = annotations.get(labels.OPERATION)
    models = labels.models_of(known)
    code = 1 if status is not None and status.state == "failed" else 0
    if as_json:
        starts = _plain(annotations.get(labels.MODELS, "null"))
        return code, json.dumps({**_document(status, operation, models), "starts": starts}, indent=2)
    rows = [f"node     {node}", f"layout   {known.get(settings.mig_config_label, '(no label)')}"]
    if status is None:
        rows.append("state    the agent has said nothing yet")
    else:
        rows += [
            f"state    {status.state} since {_time(status.since)}",
            f"reason   {status.reason}: {status.message}",
        ]
        rows += [f"GPU      {uuid}  {' '.join(slots) or '(empty)'}" for uuid, slots in status.placements.items()]
        rows += (
            [f"retry    {_time(status.next_try)}"] if status.state == "failed" and status.next_try is not None else []
        )
    if status is not None and status.schedule is not None:
        now = status.schedule
        rows.append(f"schedule {now.name}: {now.period} ({status.layout}) until {_time(now.until)}")
    gate = Gate.from_json(annotations.get(labels.GATE, "null"))
    if gate is not None:
        rows.append(f"gate     shut since {_time(gate.since)}: {gate.message}")
    if operation:
        rows.append(f"change   {_change(operation)}")
    rows += [f"model    {name}  {state}" for name, state in sorted(models.items())]
    ledger = Ledger.from_json(annotations.get(labels.MODELS, "{}"))
    rows += [f"memory   {name}  {share} % of its weights" for name, share in sorted(ledger.in_memory.items())]
    rows += [f"starts   {line}" for line in starts_table(ledger)]
    return code, "\n".join(rows)


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
