"""Who else is there: other programs that cut the node's GPUs, or give them away, and how they are set up. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model import labels
from agent.model.cluster_view import ClusterView, DaemonSet, OperatorPolicy, PluginConfigMap, SeenPod
from agent.model.doctor import Code, Finding
from agent.model.node import Node
from agent.model.sharing import is_foreign
from agent.model.snapshot import Snapshot
from agent.plan.advertise import is_plugin
from agent.plan.doctor.nodes import is_ours, wish_of, wished_on
from agent.plan.host_plugin import host_plugin, is_gke_plugin
from agent.plan.owners import second_owner

MIG_MANAGER = "nvidia-mig-manager"
_DEPLOY_MIG_MANAGER = f"{labels.DEPLOY_PREFIX}mig-manager"
_STRATEGY_ENV = "MIG_STRATEGY"
_STRATEGY_FLAG = "--mig-strategy"
_PLUGIN_CONTAINER = "nvidia-device-plugin"
_HAMI_COMPONENT = ("app.kubernetes.io/component", "hami-device-plugin")


def owners(view: ClusterView) -> Iterator[Finding]:
    """All of it."""
    if view.agents:
        left = [node for node in view.nodes if is_ours(view, node) and node.labels.get(_DEPLOY_MIG_MANAGER) != "false"]
        for policy in view.policies or ():
            if left or not view.nodes:
                yield from _of_operator(policy)
    for node in view.nodes:
        ours = is_ours(view, node)
        if ours:
            yield from _second_owners(view, node)
        if ours or wish_of(view, node):
            yield from _advertisers(view, node)
            yield from _strategy(view, node)
            yield from _plugin_config(view, node)


def _of_operator(policy: OperatorPolicy) -> Iterator[Finding]:
    if policy.mig_manager is not False:
        said = "is true" if policy.mig_manager else "is not set, which means true"
        yield Finding(
            Code.MIG_MANAGER_ENABLED,
            f"ClusterPolicy {policy.name}",
            f"spec.migManager.enabled {said}, so GPU Operator runs its mig-manager beside this agent",
            f"{_turn_off(policy.name)}, and migManager.enabled=false in the values of its Helm release; where you migrate node "
            "by node, once the last one is done",
        )


def _turn_off(policy: str) -> str:
    patch = '{"spec":{"migManager":{"enabled":false}}}'
    return f"`kubectl patch clusterpolicies.nvidia.com {policy} --type merge -p '{patch}'`"


def _second_owners(view: ClusterView, node: Node) -> Iterator[Finding]:
    for one in view.on(node):
        if one.pod.app == MIG_MANAGER:
            yield Finding(
                Code.MIG_MANAGER_RUNS,
                f"pod {one.pod.ref}",
                f"it is NVIDIA's mig-manager, which follows the label {view.config.label_key} of this node too",
                _without_mig_manager(view, one, node),
                node.name,
            )
            continue
        sentence = second_owner(_snapshot(view, node, (one,)))
        if sentence:
            what, _, fix = sentence.removeprefix(f"pod {one.pod.ref} ").partition("; ")
            yield Finding(Code.SECOND_OWNER, f"pod {one.pod.ref}", what, fix, node.name)


def _without_mig_manager(view: ClusterView, one: SeenPod, node: Node) -> str:
    if view.policies:
        off = _turn_off(view.policies[0].name)
        if any(key == _DEPLOY_MIG_MANAGER for each in view.agents or () for key, _ in each.place.selector):
            # Agents that run where that label says so would go with it.
            return off
        alone = f"`kubectl label node {node.name} {_DEPLOY_MIG_MANAGER}=false --overwrite`"
        return f"{off}, or for this node alone {alone}"
    name = one.daemon_set.partition("/")[2] or MIG_MANAGER
    return f"`kubectl -n {one.pod.ref.namespace} delete daemonset {name}`"


def _snapshot(view: ClusterView, node: Node, pods: tuple[SeenPod, ...]) -> Snapshot:
    return Snapshot(view.now, node, (), tuple(one.pod for one in pods), None)


def _advertisers(view: ClusterView, node: Node) -> Iterator[Finding]:
    pods = view.on(node)
    if view.pods is not None and wish_of(view, node) and not view.config.refreshes:
        sentence = host_plugin(_snapshot(view, node, pods))
        if sentence:
            what, _, fix = sentence.partition(": ")
            yield Finding(Code.HOST_PLUGIN, f"node {node.name}", what, fix, node.name)
    named = [(name, one) for one in pods if (name := _advertises(one))]
    sets = {one.daemon_set or str(one.pod.ref): (name, one) for name, one in named}
    if len(sets) > 1:
        listed = ", ".join(f"{name} (pod {one.pod.ref})" for name, one in sets.values())
        yield Finding(
            Code.TWO_ADVERTISERS,
            f"node {node.name}",
            f"more than one thing gives its GPUs away: {listed}",
            _keep_one({name for name, _ in sets.values()}, node),
            node.name,
        )


def _advertises(one: SeenPod) -> str:
    if one.pod.owner_kind != "DaemonSet" or one.pod.terminating:
        return ""
    if one.pod.dra_driver:
        return "NVIDIA's DRA driver"
    if is_gke_plugin(one.pod):
        return "GKE's device plugin"
    key, component = _HAMI_COMPONENT
    if one.pod.labels.get(key) == component:
        return "HAMi's device plugin"
    # Its chart's other DaemonSets (feature discovery, the control daemon of MPS) have the same name in their labels.
    plugin = is_plugin(one.pod) and any(container.name.startswith(_PLUGIN_CONTAINER) for container in one.containers)
    return "NVIDIA's device plugin" if plugin else ""


def _keep_one(names: set[str], node: Node) -> str:
    if "NVIDIA's DRA driver" in names:
        return (
            f"keep one: `kubectl label node {node.name} {labels.DEVICE_PLUGIN}=false --overwrite` (GPU Operator) takes the "
            "device plugin away, resources.gpus.enabled=false in its Helm values the driver"
        )
    if "HAMi's device plugin" in names:
        return f"keep one: `kubectl label node {node.name} gpu-` takes HAMi's from this node (its default selector is gpu=on)"
    if "GKE's device plugin" in names:
        return "keep one: make the node pool with the label gke-no-default-nvidia-gpu-device-plugin=true, or take NVIDIA's away"
    return "keep one: delete the DaemonSet that you did not mean, or keep it from this node with a nodeSelector"


def strategy_on(view: ClusterView, node: Node) -> tuple[str, str]:
    """(the device plugin's MIG strategy on this node, who says so). Empty where nobody does."""
    if labels.STRATEGY in node.labels:
        return node.labels[labels.STRATEGY], f"label {labels.STRATEGY}"
    running = {one.daemon_set for one in view.on(node) if is_plugin(one.pod)}
    for plugin in view.plugins:
        if str(plugin) in running:
            said = _strategy_of(plugin)
            if said:
                return said, f"DaemonSet {plugin}"
    policy = next(iter(view.policies or ()), None)
    if policy is not None:
        return policy.strategy or "none", f"ClusterPolicy {policy.name}, spec.mig.strategy"
    # NVIDIA's manifest and chart say nothing of it unless they are told to, and the plugin takes none. A ConfigMap may say it.
    known = [name for name in sorted(running) if name in view.plugin_configs and view.plugin_configs[name] is None]
    return ("none", f"DaemonSet {known[0]}, which does not set it") if known else ("", "")


def _strategy_of(plugin: DaemonSet) -> str:
    for container in plugin.containers:
        words = " ".join(container.args).replace(f"{_STRATEGY_FLAG} ", f"{_STRATEGY_FLAG}=").split()
        flag = next((word for word in words if word.startswith(f"{_STRATEGY_FLAG}=")), "")
        said = flag.removeprefix(f"{_STRATEGY_FLAG}=") or container.env.get(_STRATEGY_ENV, "")
        if said:
            return said
    return ""


def _strategy(view: ClusterView, node: Node) -> Iterator[Finding]:
    """Of the device plugin: where only the DRA driver gives the GPUs away it does not matter."""
    pods = view.on(node)
    if any(one.pod.dra_driver for one in pods) and not any(is_plugin(one.pod) for one in pods):
        return
    wished = wished_on(view, node)
    strategy, source = strategy_on(view, node)
    if wished.slices and strategy == "none":
        yield Finding(
            Code.STRATEGY_NONE,
            f"node {node.name}",
            f"layout {wish_of(view, node)!r} makes slices, and the device plugin's MIG strategy is none ({source})",
            _set_strategy(view, "mixed"),
            node.name,
        )
    if strategy == "single" and wished.kinds > 1:
        yield Finding(
            Code.STRATEGY_SINGLE,
            f"node {node.name}",
            f"layout {wish_of(view, node)!r} has {wished.kinds} kinds of slices, and the MIG strategy is single ({source})",
            f"{_set_strategy(view, 'mixed')}, or wish for slices of one kind",
            node.name,
        )


def _set_strategy(view: ClusterView, strategy: str) -> str:
    policy = next(iter(view.policies or ()), None)
    if policy is not None:
        patch = f'{{"spec":{{"mig":{{"strategy":"{strategy}"}}}}}}'
        return f"`kubectl patch clusterpolicies.nvidia.com {policy.name} --type merge -p '{patch}'`"
    plugin = next(iter(view.plugins), None)
    if plugin is not None:
        target = f"daemonset {plugin.name}"
        return f"`kubectl -n {plugin.namespace} set env {target} {_STRATEGY_ENV}={strategy}` (migStrategy in its Helm values)"
    return f"run the device plugin with {_STRATEGY_ENV}={strategy}"


def _plugin_config(view: ClusterView, node: Node) -> Iterator[Finding]:
    """What the label chooses now; where it chooses nothing yet, what the wish will need."""
    chosen = node.labels.get(labels.PLUGIN_CONFIG, "")
    strategy, _ = strategy_on(view, node)
    entry = chosen or wished_on(view, node).entries.get(strategy or "mixed", "")
    if not entry:
        return
    needs = f"layout {wish_of(view, node)!r} needs the configuration {entry}"
    who = f"label {labels.PLUGIN_CONFIG} is {chosen}" if chosen else needs
    running = {one.daemon_set for one in view.on(node) if is_plugin(one.pod)}
    for plugin in view.plugins:
        if str(plugin) in running and str(plugin) in view.plugin_configs:
            given = view.plugin_configs[str(plugin)]
            if given is None:
                yield _without_config(plugin, who, node)
            elif entry not in given.entries:
                yield _without_entry(plugin, given, who, entry, node)


_PRINT = "`warmslice layouts --device-plugin-config layouts.yaml`"


def _without_config(plugin: DaemonSet, who: str, node: Node) -> Finding:
    return Finding(
        Code.PLUGIN_WITHOUT_CONFIG,
        f"DaemonSet {plugin}",
        f"{who}, and this device plugin was given no ConfigMap of configurations, so that it reads none",
        f"apply what {_PRINT} prints in namespace {plugin.namespace}, and name it to the plugin (GPU Operator: "
        "devicePlugin.config.name=warmslice-device-plugin; the plugin's own chart: config.name)",
        node.name,
    )


def _without_entry(plugin: DaemonSet, given: PluginConfigMap, who: str, entry: str, node: Node) -> Finding:
    known = f"has only {', '.join(sorted(given.entries)) or 'nothing'}" if given.there else "is not there"
    ours = f"put the entries that {_PRINT} prints into it"
    theirs = f"add {entry} to it, or `kubectl label node {node.name} {labels.PLUGIN_CONFIG}-`"
    return Finding(
        Code.PLUGIN_CONFIG_MISSING,
        f"ConfigMap {plugin.namespace}/{given.name}",
        f"{who}, and this ConfigMap of the device plugin {known}",
        theirs if is_foreign(entry) else ours,
        node.name,
    )
