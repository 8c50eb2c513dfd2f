"""GPU clients in a change: which have to stop for it, which still run, and which have seen an old layout."""

from __future__ import annotations

from dataclasses import replace

from agent.model import labels
from agent.model.node import Node, Pod
from agent.model.operation import Operation
from agent.model.snapshot import Snapshot
from agent.model.steps import Change


def client_pods(seen: Snapshot, mode: bool) -> tuple[Pod, ...]:
    """Pods of the GPU clients that a change concerns; a change of mode concerns every one."""
    apps = labels.CHECKERS.union(*(client.apps for client in labels.CLIENTS if client.every_change or mode))
    return tuple(
        pod
        for pod in seen.pods
        if (pod.app in apps or pod.dra_driver) and pod.owner_kind == "DaemonSet" and not pod.finished
    )


def is_paused_by_label(pod: Pod, node: Node, mode: bool) -> bool:
    """Whether this is a GPU client that a change stops by its deploy label; a change of mode stops every one."""
    stopped = [
        client.apps
        for client in labels.CLIENTS
        if (client.every_change or mode) and node.labels.get(client.label, "false") != "false"
    ]
    return pod.owner_kind == "DaemonSet" and pod.app in frozenset[str]().union(*stopped)


def with_clients_paused(seen: Snapshot, operation: Operation, change: Change) -> Operation:
    """The record as it stands from the moment the hardware may be touched, with the deploy labels to pause in it.

    Those are labels that stand on the node, are not opted out, and whose client this change concerns. Every client that runs
    now will have seen an old layout: also one that came back midway, before a newer wish.
    """
    mode = any(gpu.mode is not None for gpu in change.gpus)
    to_pause = {
        client.label: seen.node.labels[client.label]
        for client in labels.CLIENTS
        if (client.every_change or mode) and seen.node.labels.get(client.label, "false") not in ("false", labels.PAUSED)
    }
    running = {pod.ref.uid for pod in client_pods(seen, mode)}
    return replace(
        operation,
        touched=True,
        resumed=False,
        labels={**operation.labels, **to_pause},
        clients=tuple(sorted({*operation.clients, *running})),
    )


def stopping(seen: Snapshot, operation: Operation) -> tuple[Pod, ...]:
    """Pods of paused clients that are still here."""
    paused = [
        c for c in labels.CLIENTS if seen.node.labels.get(c.label) == labels.PAUSED and c.label in operation.labels
    ]
    apps = frozenset[str]().union(*(client.apps for client in paused))
    return tuple(pod for pod in seen.pods if pod.app in apps and not pod.finished)


def with_newcomers(seen: Snapshot, operation: Operation) -> Operation:
    """The record with the clients that came while the hardware was changed, where they could not be stopped: they may have
    read half a layout. One that is on its way out when it is resumed comes back anew in any case."""
    running = {pod.ref.uid for pod in client_pods(seen, mode=False) if not pod.terminating}
    return replace(operation, clients=tuple(sorted({*operation.clients, *running})))
