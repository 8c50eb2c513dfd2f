"""What is wished of the nodes, and what the agents say of it; what they are configured with. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from agent.model import labels
from agent.model.cluster_view import ClusterView
from agent.model.doctor import Code, Finding
from agent.model.node import Node
from agent.model.report import NodeStatus
from agent.plan.advertise import HARDWARE_ALONE
from agent.plan.doctor.nodes import wish_of, wished_on
from agent.plan.doctor.reasons import fix_of

WAITED_LONG_SECONDS = 3600.0
_WAITS_LONGER = {"job-running": 86_400.0, "dry-run": 86_400.0, "fleet-slot": 3 * 86_400.0}
"""What somebody has set up to take longer: jobs that may end, answers that are to be read, a turn or a maintenance window."""
_CACHE_LIMIT = "memory limit"
_IN_MEMORY = "ModelNotInMemory"


def wishes(view: ClusterView) -> Iterator[Finding]:
    """All of it."""
    for node in view.nodes:
        status = NodeStatus.from_json(node.annotations.get(labels.STATUS, "null"))
        yield from _wish(view, node, status)
        yield from _drift(view, node, status)
        if node.name in view.refused_sets:
            yield _refused_set(view, node)
        yield from _memory(view, node)
    yield from _failed_models(view)


def _wish(view: ClusterView, node: Node, status: NodeStatus | None) -> Iterator[Finding]:
    """What the agent said of another wish says nothing of this one."""
    wish = wish_of(view, node)
    if not wish:
        return
    where, refusal = f"node {node.name}", wished_on(view, node).refusal
    said = status if status is not None and _speaks_of(status, view, node) else None
    if said is not None and said.state == "failed":
        what = f"layout {said.layout or wish!r} failed, {said.reason}: {said.message}"
        yield Finding(Code.WISH_FAILED, where, what, _mend(view, node, said.reason), node.name)
    elif refusal:
        yield Finding(Code.WISH_UNKNOWN, where, refusal, _mend(view, node, "unknown-layout"), node.name)
    elif said is not None and said.state == "pending" and _has_waited_long(said, view.now):
        lasting = f"{(view.now - said.since) / 3600:.0f} h"
        what = f"layout {said.layout or wish!r} has been pending for {lasting}, {said.reason}: {said.message}"
        yield Finding(Code.WISH_WAITING, where, what, _mend(view, node, said.reason), node.name)
    elif (
        said is not None and said.state == "success" and HARDWARE_ALONE in said.message and wished_on(view, node).slices
    ):
        what = f"layout {said.layout or wish!r} is applied, and nobody gives its slices to pods"
        fix = (
            f"`kubectl label node {node.name} {labels.DEVICE_PLUGIN}=true` where NVIDIA's device plugin is installed (GPU "
            "Operator, or manifests/components/nvidia), and the same in the labels of its node pool"
        )
        yield Finding(Code.NOT_ADVERTISED, where, what, fix, node.name)


def _has_waited_long(said: NodeStatus, now: float) -> bool:
    return now - said.since > _WAITS_LONGER.get(said.reason, WAITED_LONG_SECONDS)


def _speaks_of(status: NodeStatus, view: ClusterView, node: Node) -> bool:
    asked = (wish_of(view, node), node.labels.get(view.config.label_key, ""), "")
    return status.schedule is not None or status.layout in asked


def _mend(view: ClusterView, node: Node, reason: str) -> str:
    fix = fix_of(reason, node.name, view.config.label_key)
    named = reason in ("unknown-layout", "unparsable-layout") and view.config.layouts
    return f"{fix}; the file has {', '.join(sorted(view.config.layouts)[:8])}" if named else fix


def _drift(view: ClusterView, node: Node, status: NodeStatus | None) -> Iterator[Finding]:
    drift = status.drift if status is not None else None
    if drift is not None and drift.times > 1 and drift.corrected is None:
        yield Finding(
            Code.DRIFTS,
            f"node {node.name}",
            f"its GPUs were changed by somebody else {drift.times} times in a row, and the agent puts that right ever later",
            fix_of("drift", node.name, view.config.label_key),
            node.name,
        )


def _refused_set(view: ClusterView, node: Node) -> Finding:
    known = ", ".join(sorted(view.config.catalog.sets)) if view.config.catalog is not None else ""
    return Finding(
        Code.MODEL_SET_UNKNOWN,
        f"node {node.name}",
        view.refused_sets[node.name],
        f"`kubectl label node {node.name} {labels.MODEL_SET}=SET --overwrite` with one of the catalog "
        f"({known or 'it has none'}), or add the set to it",
        node.name,
    )


def _memory(view: ClusterView, node: Node) -> Iterator[Finding]:
    """The agent says so itself, by the sizes on its disk, while the Event lasts."""
    for reason, message in view.said.get(node.name, ()):
        if reason == _IN_MEMORY and _CACHE_LIMIT in message:
            yield Finding(
                Code.CACHE_MEMORY_SHORT,
                f"node {node.name}",
                message,
                "raise resources.limits.memory of the container cache in the DaemonSet by the size of the weights, or take "
                "page_cache: true from the model",
                node.name,
            )


def _failed_models(view: ClusterView) -> Iterator[Finding]:
    """A model that cannot be had fails everywhere: once is enough."""
    failed: dict[str, list[str]] = {}
    for node in view.nodes:
        for name, state in labels.models_of(node.labels).items():
            if state == "failed":
                failed.setdefault(name, []).append(node.name)
    for name, nodes in sorted(failed.items()):
        said = next((text for node in nodes for _, text in view.said.get(node, ()) if name in text), "")
        more = f", and {len(nodes) - 1} more nodes" if len(nodes) > 1 else ""
        yield Finding(
            Code.MODEL_FAILED,
            f"label {labels.MODEL_PREFIX}{name}",
            f"it is failed on {nodes[0]}{more}" + (f": {said}" if said else ""),
            f"the log names the reason: `kubectl -n {_namespace(view)} logs ds/{_name(view)} -c cache | grep {name}`, and the "
            "table of reasons says who has to act",
            nodes[0] if len(nodes) == 1 else "",
        )


def _namespace(view: ClusterView) -> str:
    return view.agents[0].namespace if view.agents else "warmslice"


def _name(view: ClusterView) -> str:
    return view.agents[0].name if view.agents else "warmslice"


def configuration(view: ClusterView) -> Iterator[Finding]:
    """Mistakes in what the agents are given, in their own words."""
    if not view.agents:
        return
    config, where = view.config, f"DaemonSet {view.agents[0]}"
    for name in config.missing:
        yield Finding(
            Code.CONFIG_MISSING,
            where,
            f"it mounts the ConfigMap {_namespace(view)}/{name}, which is not there: its pods do not start",
            "`kubectl apply -k manifests/base`, or make a ConfigMap of that name",
        )
    faults = (
        (Code.SETTINGS_UNREADABLE, config.settings_error, "settings.yaml"),
        (Code.LAYOUTS_UNREADABLE, config.layouts_error, "layouts.yaml"),
        (Code.CATALOG_UNREADABLE, config.catalog_error, "catalog.yaml"),
    )
    for code, sentence, file in faults:
        if sentence:
            yield Finding(code, where, sentence, _mend_file(view, file))
    state = PurePosixPath(config.state_host_path or "/")
    reach = next((path for path in config.open_to_cache if config.state_host_path and state.is_relative_to(path)), "")
    if reach:
        yield Finding(
            Code.STATE_IN_CACHE,
            where,
            f"state_directory is {state} of the node, inside {reach}, which the container cache can write: it could replace what "
            "the privileged one reads",
            "give the volume state a hostPath of its own, such as /var/lib/warmslice-state",
        )
    if config.token_fault:
        fix = "set hub_tokens_directory, and mount a Secret there that has the token as a key of that name"
        yield Finding(Code.TOKEN_MISSING, where, config.token_fault, fix)


def _mend_file(view: ClusterView, file: str) -> str:
    if file == "settings.yaml":
        restart = f"`kubectl -n {_namespace(view)} rollout restart daemonset/{_name(view)}`"
        return f"mend it in the ConfigMap, then {restart}: settings are read at start"
    return f"mend it in the ConfigMap; `warmslice check {file}` says every mistake with its place"
