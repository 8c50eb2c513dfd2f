"""All nodes: is anything wrong, what is free, who uses it, what it costs, and whether models are where they are wanted."""

from __future__ import annotations

from hack.dashboards.panels import GREEN, GREY, ORANGE, RED, YELLOW, Dashboard, Panel, Query, Row, Variable

_ON = 'node=~"$node"'
_OF = 'namespace=~"$namespace"'
_BAD = ((None, GREEN), (1, RED))
_POOR = ((None, GREEN), (1, ORANGE))
_WORKLOAD = {"namespace": "Namespace", "kind": "Kind", "workload": "Workload"}
_MONEY = "In the currency of the setting gpu_prices; without it there are no costs."

NOW = Row(
    "Now",
    (
        Panel(
            "stat",
            "Nodes",
            "Nodes whose agent is scraped.",
            [Query(f"count(count by (node) (warmslice_build_info{{{_ON}}}))")],
            width=3,
            height=4,
            steps=((None, GREY),),
        ),
        Panel(
            "stat",
            "GPUs lost",
            "GPUs that are lost or do not answer.",
            [Query(f"count(max by (node, gpu_uuid) (warmslice_gpu_up{{{_ON}}}) == 0) or vector(0)")],
            width=3,
            height=4,
            steps=_BAD,
        ),
        Panel(
            "stat",
            "Layouts failed",
            "Nodes that do not have the layout that they ask for, and will not get it as things stand.",
            [Query(f'sum(max by (node) (warmslice_layout_state{{state="failed", {_ON}}})) or vector(0)')],
            width=3,
            height=4,
            steps=_BAD,
        ),
        Panel(
            "stat",
            "Nodes that wait",
            "Nodes whose change of layout waits for something; the table below says for what.",
            [Query(f"count(max by (node) (warmslice_blocked_seconds{{{_ON}}})) or vector(0)")],
            width=3,
            height=4,
            steps=_POOR,
        ),
        Panel(
            "stat",
            "Models not ready",
            "Models on nodes that want them and do not have them yet, each node counted.",
            [Query(f"count(max by (node, model) (warmslice_model_ready{{{_ON}}}) == 0) or vector(0)")],
            width=3,
            height=4,
            steps=_POOR,
        ),
        Panel(
            "stat",
            "Alerts",
            "Alerts of WarmSlice that fire.",
            [Query('count(ALERTS{alertname=~"WarmSlice.+", alertstate="firing"}) or vector(0)')],
            width=3,
            height=4,
            steps=_POOR,
        ),
        Panel(
            "stat",
            "Used",
            "Of all GPUs, what computes now: load times share, of GPUs whose load is measured, against all.",
            [
                Query(
                    f'sum(warmslice:node_state:gpu_share{{state="used", {_ON}}})'
                    f" / sum(warmslice:node_state:gpu_share{{{_ON}}})"
                )
            ],
            unit="percentunit",
            width=3,
            height=4,
            steps=((None, GREY),),
        ),
        Panel(
            "stat",
            "Free devices",
            "Slices and whole GPUs that no pod holds.",
            [Query(f"sum(warmslice:free_devices:count{{{_ON}}})")],
            width=3,
            height=4,
            steps=((None, GREY),),
        ),
        Panel(
            "table",
            "Nodes",
            "The layout of each node, its state, what it waits for and since when, and how busy it is.",
            [
                Query(f"max by (node, layout) (warmslice_layout_info{{{_ON}}})"),
                Query(f"max by (node, state) (warmslice_layout_state{{{_ON}}} == 1)"),
                Query(
                    f"max by (node, reason) (warmslice_blocked_seconds{{{_ON}}})"
                    f" or on (node) 0 * max by (node) (warmslice_build_info{{{_ON}}})",
                    "Waits",
                    "s",
                ),
                Query(f"max by (node) (warmslice:node:utilization_ratio{{{_ON}}})", "Load", "percentunit"),
                Query(f"sum by (node) (warmslice:free_devices:count{{{_ON}}})", "Free devices"),
            ],
            columns={"node": "Node", "layout": "Layout", "state": "State", "reason": "Waits for"},
            by="node",
            width=14,
            height=10,
        ),
        Panel(
            "table",
            "Alerts, pending and firing",
            "The runbook of each stands in docs/runbooks.md.",
            [Query('count by (alertname, severity, alertstate, node) (ALERTS{alertname=~"WarmSlice.+"}) or vector(0)')],
            columns={"alertname": "Alert", "severity": "Severity", "alertstate": "State", "node": "Node"},
            width=10,
            height=10,
        ),
        Panel(
            "timeseries",
            "Layouts by state",
            "How many nodes are in which state.",
            [Query(f"sum by (state) (max by (node, state) (warmslice_layout_state{{{_ON}}}))", "{{state}}")],
            stacked=True,
        ),
        Panel(
            "timeseries",
            "The longest wait, by what is waited for",
            "How long the node that has waited longest has waited.",
            [Query(f"max by (reason) (warmslice_blocked_seconds{{{_ON}}}) or vector(0)", "{{reason}}")],
            unit="s",
        ),
    ),
)

ROOM = Row(
    "Room",
    (
        Panel(
            "bargauge",
            "Free devices by profile",
            "What a pod can have at once, without any change of layout. Whole: a GPU whose MIG mode is off.",
            [Query(f"sum by (profile) (warmslice:free_devices:count{{{_ON}}})", "{{profile}}")],
            width=8,
        ),
        Panel(
            "bargauge",
            "The largest profile that still fits, by GPUs",
            "What a GPU could be cut into beside the slices that it has. None: it is full.",
            [
                Query(
                    f"count by (profile) (max by (gpu_uuid, profile) (warmslice_gpu_largest_free_profile{{{_ON}}}))",
                    "{{profile}}",
                )
            ],
            width=8,
        ),
        Panel(
            "bargauge",
            "Held and idle for an hour, by profile",
            "Devices that the same pods have held for an hour, and on which nothing ran.",
            [Query(f"sum by (profile) (warmslice:idle_devices:count{{{_ON}}})", "{{profile}}")],
            width=8,
            steps=_POOR,
        ),
        Panel(
            "timeseries",
            "Free devices",
            "By profile.",
            [Query(f"sum by (profile) (warmslice:free_devices:count{{{_ON}}})", "{{profile}}")],
        ),
        Panel(
            "timeseries",
            "Held devices",
            "By profile.",
            [Query(f"sum by (profile) (warmslice:held_devices:count{{{_ON}}})", "{{profile}}")],
        ),
    ),
)

LOAD = Row(
    "Load",
    (
        Panel(
            "timeseries",
            "GPUs, by what becomes of them",
            "Used: load times share. Idle: held, and not used. Unmeasured: held where no load is reported. Free: cut, or whole, "
            "and held by nobody. Uncut: in no slice of the layout. Lost: does not answer.",
            [Query(f"sum by (state) (warmslice:node_state:gpu_share{{{_ON}}})", "{{state}}")],
            stacked=True,
        ),
        Panel(
            "timeseries",
            "Load of the ten busiest nodes",
            "Mean of what is measured on the node, weighed by its share of a GPU.",
            [Query(f"topk(10, warmslice:node:utilization_ratio{{{_ON}}})", "{{node}}")],
            unit="percentunit",
            most=1,
        ),
        Panel(
            "timeseries",
            "Load of what namespaces hold",
            "Of the devices that a namespace's pods hold, how much computes.",
            [Query(f"warmslice:namespace:utilization_ratio{{{_OF}}}", "{{namespace}}")],
            unit="percentunit",
            most=1,
        ),
        Panel(
            "timeseries",
            "GPUs that namespaces hold",
            "Shares of GPUs, added up; of what is shared, each has its part.",
            [Query(f"sum by (namespace) (warmslice:namespace_state:gpu_share{{{_OF}}})", "{{namespace}}")],
            stacked=True,
        ),
        Panel(
            "table",
            "Workloads",
            "What each workload holds, how much of it computes, its memory, and what smaller slices would give back: half of the "
            "share of every slice whose memory was never used by more than 45 % in seven days.",
            [
                Query(f"sum by (namespace, kind, workload) (warmslice:workload_state:gpu_share{{{_OF}}})", "GPUs"),
                Query(f"warmslice:workload:utilization_ratio{{{_OF}}}", "Load", "percentunit"),
                Query(f"warmslice:workload:memory_used_bytes{{{_OF}}}", "Memory used", "bytes"),
                Query(f"warmslice:workload:memory_total_bytes{{{_OF}}}", "Memory held", "bytes"),
                Query(f"warmslice:workload:oversized_gpu_share{{{_OF}}}", "GPUs to win"),
            ],
            columns=_WORKLOAD,
            width=14,
            height=10,
        ),
        Panel(
            "table",
            "Held slices by the most memory that was used in seven days",
            "Of the profiles with two and more compute slices, which have a smaller one beside them. Below 45 % that would do.",
            [
                Query(
                    f"max by (node, gpu, profile, namespace, pod) ((0 * warmslice:holder:gpu_share{{{_OF}, {_ON}}}) + on (device)"
                    ' group_left () warmslice:device:memory_peak_ratio7d{profile=~"[2-7]g[.].*"})',
                    "Most memory",
                    "percentunit",
                )
            ],
            columns={"node": "Node", "gpu": "GPU", "profile": "Profile", "namespace": "Namespace", "pod": "Pod"},
            width=10,
            height=10,
        ),
    ),
)

COST = Row(
    "Cost",
    (
        Panel(
            "stat",
            "All GPUs, an hour",
            _MONEY,
            [Query(f"sum(warmslice:node_state:cost_per_hour{{{_ON}}})")],
            width=4,
            height=4,
            steps=((None, GREY),),
        ),
        Panel(
            "stat",
            "Held and idle, an hour",
            "What holders pay for and do not use, by load.",
            [Query(f'sum(warmslice:node_state:cost_per_hour{{state="idle", {_ON}}})')],
            width=4,
            height=4,
            steps=((None, YELLOW),),
        ),
        Panel(
            "stat",
            "Held by nobody, an hour",
            "Free slices and free whole GPUs.",
            [Query(f'sum(warmslice:node_state:cost_per_hour{{state="free", {_ON}}})')],
            width=4,
            height=4,
            steps=((None, YELLOW),),
        ),
        Panel(
            "stat",
            "Wasted by layouts, an hour",
            "What is in no slice, of GPUs in MIG mode: seven 1g slices leave an eighth of the memory.",
            [Query(f'sum(warmslice:node_state:cost_per_hour{{state="uncut", {_ON}}})')],
            width=4,
            height=4,
            steps=((None, YELLOW),),
        ),
        Panel(
            "stat",
            "Scale to zero would save, an hour",
            "What devices cost that the same pods have held for an hour, and on which nothing ran. Weights that are at hand make "
            "a start cheap: see the seconds saved below.",
            [Query(f"sum(warmslice:namespace:idle1h_cost_per_hour{{{_OF}}}) or vector(0)")],
            width=4,
            height=4,
            steps=((None, YELLOW),),
        ),
        Panel(
            "stat",
            "Held and never active, an hour",
            "What devices cost that have been held for an hour and on which nothing ran in seven days, or since they are known.",
            [Query(f"sum(warmslice:namespace:never_active_cost_per_hour{{{_OF}}}) or vector(0)")],
            width=4,
            height=4,
            steps=((None, YELLOW),),
        ),
        Panel(
            "timeseries",
            "Cost per hour, by what becomes of it",
            f"The states add up to what the GPUs cost. {_MONEY}",
            [Query(f"sum by (state) (warmslice:node_state:cost_per_hour{{{_ON}}})", "{{state}}")],
            stacked=True,
        ),
        Panel(
            "timeseries",
            "Cost per hour of namespaces",
            "Of what is shared, each pays its part.",
            [Query(f"sum by (namespace) (warmslice:namespace_state:cost_per_hour{{{_OF}}})", "{{namespace}}")],
            stacked=True,
        ),
        Panel(
            "table",
            "Who pays, and for what",
            "Cost per hour now, and the amount over the time range of this page.",
            [
                Query(
                    f"sum by (namespace, kind, workload) (warmslice:workload_state:cost_per_hour{{{_OF}}})", "An hour"
                ),
                Query(
                    "sum by (namespace, kind, workload) (warmslice:workload_state:cost_per_hour"
                    f'{{state="idle", {_OF}}})',
                    "Idle, an hour",
                ),
                Query(
                    "sum by (namespace, kind, workload) (sum_over_time(warmslice:workload_state:cost_per_hour"
                    f"{{{_OF}}}[$__range])) / 60",
                    "In this time",
                ),
                Query(
                    "sum by (namespace, kind, workload) (sum_over_time(warmslice:workload_state:cost_per_hour"
                    f'{{state="idle", {_OF}}}[$__range])) / 60',
                    "Idle in this time",
                ),
            ],
            columns=_WORKLOAD,
            width=14,
            height=10,
        ),
        Panel(
            "table",
            "Models",
            "Cost per hour of the pods that serve a model; where a pod serves several, each has its part.",
            [
                Query("sum by (model) (warmslice:model_state:gpu_share)", "GPUs"),
                Query("sum by (model) (warmslice:model_state:cost_per_hour)", "An hour"),
                Query('sum by (model) (warmslice:model_state:cost_per_hour{state!="used"})', "Not used, an hour"),
            ],
            columns={"model": "Model"},
            by="model",
            width=10,
            height=10,
        ),
        Panel(
            "bargauge",
            "Amount in this time, by what becomes of it",
            "The costs per hour, added up over the time range of this page.",
            [
                Query(
                    f"sum by (state) (sum_over_time(warmslice:node_state:cost_per_hour{{{_ON}}}[$__range])) / 60",
                    "{{state}}",
                )
            ],
        ),
        Panel(
            "bargauge",
            "Idle for an hour, cost per hour by namespace",
            "Who would save by scaling to zero.",
            [Query(f"warmslice:namespace:idle1h_cost_per_hour{{{_OF}}}", "{{namespace}}")],
            steps=((None, YELLOW),),
        ),
    ),
)

MODELS = Row(
    "Models",
    (
        Panel(
            "stat",
            "Starts with the weights at hand, in a day",
            "Cold starts saved: pods that found their model's weights ready, or in the page cache.",
            [Query("sum(warmslice:model:warm_starts1d) or vector(0)")],
            width=5,
            height=4,
        ),
        Panel(
            "stat",
            "Seconds of loading saved, in a day",
            "Measured where a model has started without its weights as well, else reckoned from its size and the fetches so far.",
            [Query("sum(warmslice:model:seconds_saved1d) or vector(0)")],
            unit="s",
            width=5,
            height=4,
        ),
        Panel(
            "bargauge",
            "Not ready, by reason",
            "Nodes and models; docs/cache.md says what each reason means, and who acts.",
            [Query("sum by (reason) (warmslice:model_reason:nodes_not_ready > 0) or vector(0)", "{{reason}}")],
            width=5,
            height=4,
            steps=_POOR,
        ),
        Panel(
            "stat",
            "Files with wrong bytes, in a day",
            "Found when they came, or when they were read again.",
            [Query(f"round(sum(increase(warmslice_verify_failures_total{{{_ON}}}[1d]))) or vector(0)")],
            width=5,
            height=4,
            steps=_BAD,
        ),
        Panel(
            "stat",
            "Wishes without room",
            "Models that workloads want and that the published demand has no room for.",
            [Query("sum(warmslice_demand_dropped) or vector(0)")],
            width=4,
            height=4,
            steps=_POOR,
        ),
        Panel(
            "table",
            "Models",
            "On how many nodes each is wanted and ready, and what its starts have saved in a day.",
            [
                Query("warmslice:model:nodes_wanted", "Nodes that want it"),
                Query("warmslice:model:nodes_ready", "Nodes that have it"),
                Query("max by (model) (warmslice_model_size_bytes)", "Size", "bytes"),
                Query("warmslice:model:warm_starts1d", "Warm starts in a day"),
                Query("warmslice:model:seconds_saved_per_start", "Saves a start", "s"),
                Query("warmslice:model:seconds_saved1d", "Saved in a day", "s"),
            ],
            columns={"model": "Model"},
            by="model",
            width=14,
            height=10,
        ),
        Panel(
            "table",
            "How long pods took to be ready",
            "Means from the binding of the pod, by where the weights were, since the agents started.",
            [Query("warmslice:model_cache:start_seconds", "Ready in", "s")],
            columns={"model": "Model", "cache": "Weights"},
            width=10,
            height=10,
        ),
        Panel(
            "timeseries",
            "Received from hubs",
            "All nodes together.",
            [Query(f"sum(rate(warmslice_fetch_bytes_total{{{_ON}}}[$__rate_interval]))", "received")],
            unit="Bps",
        ),
        Panel(
            "timeseries",
            "Pod starts in a day, by where the weights were",
            "Ready and page-cache found them; absent and disk had to wait for them.",
            [Query("sum by (cache) (warmslice:model_cache:starts1d)", "{{cache}}")],
        ),
        Panel(
            "timeseries",
            "Disk that caches take",
            "Of the nodes whose cache has a budget, the ten that are nearest to it.",
            [
                Query(
                    f"topk(10, max by (node) (warmslice_cache_used_bytes{{{_ON}}})"
                    f" / on (node) max by (node) (warmslice_cache_budget_bytes{{{_ON}}})) or vector(0)",
                    "{{node}}",
                )
            ],
            unit="percentunit",
        ),
        Panel(
            "timeseries",
            "Removed, failed and tried again in an hour",
            "Models that went to make room, fetches that failed, and requests that were tried again.",
            [
                Query(f"sum(increase(warmslice_cache_evictions_total{{{_ON}}}[1h])) or vector(0)", "removed"),
                Query(f"sum(increase(warmslice_fetch_failures_total{{{_ON}}}[1h])) or vector(0)", "failed"),
                Query(f"sum(increase(warmslice_fetch_retries_total{{{_ON}}}[1h])) or vector(0)", "tried again"),
            ],
        ),
    ),
)

CHANGES = Row(
    "Changes of layout",
    (
        Panel(
            "timeseries",
            "Ended in an hour, by outcome",
            "Changes of layout.",
            [
                Query(
                    f"sum by (outcome) (increase(warmslice_reconfigures_total{{{_ON}}}[1h])) or vector(0)",
                    "{{outcome}}",
                )
            ],
            width=8,
        ),
        Panel(
            "bargauge",
            "How long phases take",
            "Means since the agents started.",
            [
                Query(
                    f"sum by (phase) (warmslice_reconfigure_duration_seconds_sum{{{_ON}}})"
                    f" / sum by (phase) (warmslice_reconfigure_duration_seconds_count{{{_ON}}} > 0)",
                    "{{phase}}",
                )
            ],
            unit="s",
            width=8,
        ),
        Panel(
            "timeseries",
            "Slices and pods in an hour",
            "Slices that were created and destroyed, pods that were evicted for it, and changes by others.",
            [
                Query(
                    f"sum by (action) (increase(warmslice_slices_total{{{_ON}}}[1h])) or vector(0)", "slices {{action}}"
                ),
                Query(f"sum(increase(warmslice_pods_evicted_total{{{_ON}}}[1h])) or vector(0)", "pods evicted"),
                Query(f"sum(increase(warmslice_drifts_total{{{_ON}}}[1h])) or vector(0)", "changed by others"),
            ],
            width=8,
        ),
    ),
)

FLEET = Dashboard(
    "warmslice-fleet",
    "WarmSlice / Fleet",
    "Slices, models and costs of all nodes.",
    (
        Variable("node", "warmslice_build_info", several=True),
        Variable("namespace", "warmslice:namespace_state:gpu_share", several=True),
    ),
    (NOW, ROOM, LOAD, COST, MODELS, CHANGES),
    (("Node", "/d/warmslice-node"),),
)
