"""One node: its layout, GPUs, slices, models, and its agent."""

from __future__ import annotations

from hack.dashboards.panels import BLUE, GREEN, GREY, ORANGE, RED, YELLOW, Dashboard, Panel, Query, Row, Variable

_ON = 'node="$node"'
_HOLDER = "gpu, profile, placement, namespace, pod"
_SLICE = "GPU {{gpu}} {{profile}}@{{placement}} {{pod}}"


def _of_slice(metric: str) -> str:
    """A slice's measure beside each of its holders."""
    measured = f"max by (mig_uuid) ({metric}{{{_ON}}})"
    return f"max by ({_HOLDER}) (warmslice_slice_info{{{_ON}}} * on (mig_uuid) group_left () {measured})"


def _load(title: str, says: str, name: str) -> Panel:
    return Panel(
        "timeseries",
        title,
        says,
        [
            Query(f"max by (gpu, profile, placement, pod) (warmslice_slice_{name}{{{_ON}}})", _SLICE),
            Query(f"max by (gpu, pod) (warmslice_gpu_{name}{{{_ON}}})", "GPU {{gpu}} {{pod}}"),
        ],
        unit="percentunit",
        most=1,
    )


LAYOUT = Row(
    "Layout",
    (
        Panel(
            "stat",
            "Layout",
            "What the state speaks of.",
            [Query(f"max by (layout) (warmslice_layout_info{{{_ON}}})", "{{layout}}")],
            width=6,
            height=4,
            names=True,
            steps=((None, GREY),),
        ),
        Panel(
            "stat",
            "State",
            "success: the GPUs have the layout and the node advertises it.",
            [Query(f"max by (state) (warmslice_layout_state{{{_ON}}} == 1)", "{{state}}")],
            width=3,
            height=4,
            names=True,
            steps=((None, GREY),),
        ),
        Panel(
            "stat",
            "Waits",
            "How long the layout has been waiting. The table beside says for whom, and docs/operations.md what to do.",
            [Query(f"max by (reason) (warmslice_blocked_seconds{{{_ON}}}) or vector(0)", "{{reason}}")],
            unit="s",
            width=6,
            height=4,
            steps=((None, GREEN), (60, BLUE), (1800, ORANGE)),
        ),
        Panel(
            "stat",
            "Cordoned by the agent",
            "How long the node has been cordoned for a change.",
            [Query(f"max(warmslice_cordoned_seconds{{{_ON}}}) or vector(0)")],
            unit="s",
            width=3,
            height=4,
            steps=((None, GREEN), (1, BLUE), (5400, ORANGE)),
        ),
        Panel(
            "stat",
            "Changed by others",
            "How long ago the GPUs were found changed by somebody else, while that is not put right.",
            [Query(f"max(warmslice_drifted_seconds{{{_ON}}}) or vector(0)")],
            unit="s",
            width=3,
            height=4,
            steps=((None, GREEN), (1, ORANGE)),
        ),
        Panel(
            "stat",
            "Start-up gate",
            "What the taint warmslice.dev/warming still waits for; 0 where there is none.",
            [Query(f"max by (reason) (warmslice_gate_waiting{{{_ON}}}) or vector(0)", "{{reason}}")],
            width=3,
            height=4,
            steps=((None, GREEN), (1, BLUE)),
        ),
        Panel(
            "state-timeline",
            "States",
            "When the layout was in which state.",
            [Query(f"max by (state) (warmslice_layout_state{{{_ON}}} == 1)", "{{state}}")],
            width=14,
            height=6,
        ),
        Panel(
            "table",
            "Who is waited for",
            "Pods that the layout waits for, their controllers, and the disruption budgets that cover them.",
            [
                Query(
                    f"max by (reason, namespace, pod, owner, budget) (warmslice_blocked_by_pod{{{_ON}}}) or vector(0)",
                )
            ],
            columns={"reason": "Reason", "namespace": "Namespace", "pod": "Pod", "owner": "Owner", "budget": "Budget"},
            width=10,
            height=6,
        ),
    ),
)

GPUS = Row(
    "GPUs",
    (
        Panel(
            "table",
            "GPUs",
            "Up: 1 while it answers.",
            [
                Query(f"max by (gpu, model, mig) (warmslice_gpu_info{{{_ON}}})"),
                Query(f"max by (gpu) (warmslice_gpu_up{{{_ON}}})", "Up"),
                Query(f"max by (gpu) (warmslice_gpu_temperature_celsius{{{_ON}}})", "Temperature", "celsius"),
                Query(f"max by (gpu) (warmslice_gpu_power_watts{{{_ON}}})", "Power", "watt"),
                Query(f"max by (gpu, profile) (warmslice_gpu_largest_free_profile{{{_ON}}})"),
                Query(f"max by (gpu) (warmslice_gpu_price_per_hour{{{_ON}}})", "An hour costs"),
            ],
            columns={"gpu": "GPU", "model": "Model", "mig": "MIG", "profile": "Still fits"},
            by="gpu",
            width=14,
        ),
        Panel(
            "timeseries",
            "Parts of the GPUs, by what becomes of them",
            "Used: load times share. Idle: held, and not used. Unmeasured: held where no load is reported. Free: held by nobody. "
            "Uncut: in no slice. Lost: does not answer.",
            [Query(f"warmslice:node_state:gpu_share{{{_ON}}}", "{{state}}")],
            width=10,
            stacked=True,
        ),
        Panel(
            "timeseries",
            "Temperature",
            "Of the chip.",
            [Query(f"max by (gpu) (warmslice_gpu_temperature_celsius{{{_ON}}})", "GPU {{gpu}}")],
            unit="celsius",
            width=8,
        ),
        Panel(
            "timeseries",
            "Power",
            "What each GPU draws.",
            [Query(f"max by (gpu) (warmslice_gpu_power_watts{{{_ON}}})", "GPU {{gpu}}")],
            unit="watt",
            width=8,
        ),
        Panel(
            "timeseries",
            "Errors",
            "Xid errors since the agent listens, by number, and memory errors since the driver was loaded.",
            [
                Query(
                    f"max by (gpu, gpu_instance, xid) (warmslice_gpu_xid_errors_total{{{_ON}}}) or vector(0)",
                    "GPU {{gpu}} Xid {{xid}}",
                ),
                Query(f"max by (gpu, type) (warmslice_gpu_ecc_errors_total{{{_ON}}})", "GPU {{gpu}} {{type}}"),
            ],
            width=8,
        ),
    ),
)

SLICES = Row(
    "Slices",
    (
        Panel(
            "table",
            "Slices and who holds them",
            "A slice that several pods share has a line for each, with the measures of the slice.",
            [
                Query(f"max by ({_HOLDER}) (warmslice_slice_info{{{_ON}}})"),
                Query(_of_slice("warmslice_slice_utilization_ratio"), "Load", "percentunit"),
                Query(_of_slice("warmslice_slice_memory_used_bytes"), "Memory used", "bytes"),
                Query(_of_slice("warmslice_slice_memory_total_bytes"), "Memory", "bytes"),
                Query(_of_slice("warmslice_slice_processes"), "Processes"),
            ],
            columns={
                "gpu": "GPU",
                "profile": "Profile",
                "placement": "Placement",
                "namespace": "Namespace",
                "pod": "Pod",
            },
            width=24,
            height=10,
        ),
        _load("Load", "Graphics or compute engine activity, of slices and of whole GPUs.", "utilization_ratio"),
        Panel(
            "timeseries",
            "Memory in use",
            "Of slices and of whole GPUs.",
            [
                Query(f"max by (gpu, profile, placement, pod) (warmslice_slice_memory_used_bytes{{{_ON}}})", _SLICE),
                Query(f"max by (gpu, pod) (warmslice_gpu_memory_used_bytes{{{_ON}}})", "GPU {{gpu}} {{pod}}"),
            ],
            unit="bytes",
        ),
        _load("Busy multiprocessors", "As reported by GPM.", "sm_utilization_ratio"),
        _load("Occupancy", "Resident warps against the most possible, as reported by GPM.", "sm_occupancy_ratio"),
        _load("Tensor activity", "As reported by GPM.", "tensor_utilization_ratio"),
        _load(
            "Memory bandwidth",
            "Against the most possible, as reported by GPM.",
            "dram_bandwidth_utilization_ratio",
        ),
    ),
)

MODELS = Row(
    "Models",
    (
        Panel(
            "table",
            "Models",
            "Why each is wanted here, how much of it is here, and since when it is not ready, for which reason.",
            [
                Query(f"max by (model, rank) (warmslice_model_wanted_info{{{_ON}}})"),
                Query(f"max by (model) (warmslice_model_ready{{{_ON}}})", "Ready"),
                Query(f"max by (model) (warmslice_model_size_bytes{{{_ON}}})", "Size", "bytes"),
                Query(f"max by (model) (warmslice_model_fetched_bytes{{{_ON}}})", "Here", "bytes"),
                Query(
                    f"max by (model, reason) (warmslice_model_not_ready_seconds{{{_ON}}})"
                    f" or on (model) 0 * max by (model) (warmslice_model_ready{{{_ON}}})",
                    "Not ready",
                    "s",
                ),
            ],
            columns={"model": "Model", "rank": "Wanted by", "reason": "Reason"},
            by="model",
            width=14,
        ),
        Panel(
            "bargauge",
            "Fetched",
            "Of each model that the hub has listed.",
            [
                Query(
                    f"max by (model) (warmslice_model_fetched_bytes{{{_ON}}})"
                    f" / on (model) max by (model) (warmslice_model_size_bytes{{{_ON}}})",
                    "{{model}}",
                )
            ],
            unit="percentunit",
            most=1,
            width=10,
            steps=((None, YELLOW), (1, GREEN)),
        ),
        Panel(
            "timeseries",
            "Received and read again",
            "Bytes of models from hubs, and of the cache's files that are checked again.",
            [
                Query(f"sum(rate(warmslice_fetch_bytes_total{{{_ON}}}[$__rate_interval]))", "received"),
                Query(f"sum(rate(warmslice_scrub_bytes_total{{{_ON}}}[$__rate_interval]))", "read again"),
            ],
            unit="Bps",
            width=8,
        ),
        Panel(
            "timeseries",
            "Disk and memory",
            "What the cache takes on disk and may take, and what of the weights is in the page cache.",
            [
                Query(f"max(warmslice_cache_used_bytes{{{_ON}}})", "on disk"),
                Query(f"max(warmslice_cache_budget_bytes{{{_ON}}}) or vector(0)", "budget"),
                Query(f"sum(warmslice_model_page_cache_bytes{{{_ON}}}) or vector(0)", "in the page cache"),
            ],
            unit="bytes",
            width=8,
        ),
        Panel(
            "timeseries",
            "Failed and tried again, in an hour",
            "Fetches, by reason.",
            [
                Query(
                    f"sum by (reason) (increase(warmslice_fetch_failures_total{{{_ON}}}[1h])) or vector(0)",
                    "failed {{reason}}",
                ),
                Query(
                    f"sum by (reason) (increase(warmslice_fetch_retries_total{{{_ON}}}[1h])) or vector(0)",
                    "tried again {{reason}}",
                ),
            ],
            width=8,
        ),
    ),
)

AGENT = Row(
    "Agent",
    (
        Panel(
            "timeseries",
            "Loops: since the last pass, and failing",
            "A loop that is stuck grows here; it should finish a pass every 5 minutes, or later while it changes slices. "
            "So does one that fails, for as long as every pass does.",
            [
                Query(f"time() - max by (loop) (warmslice_last_pass_timestamp_seconds{{{_ON}}})", "{{loop}}"),
                Query(
                    f"max by (loop) (warmslice_failing_seconds{{{_ON}}})"
                    f" or 0 * max by (loop) (warmslice_pass_limit_seconds{{{_ON}, loop!='telemetry'}})",
                    "{{loop}} fails",
                ),
            ],
            unit="s",
            width=8,
        ),
        Panel(
            "bargauge",
            "How long phases of a change take",
            "Means since the agent started.",
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
            "stat",
            "Containers that answer",
            "The agent has two: partition and cache.",
            [Query(f'sum(up{{job=~"(.*/)?warmslice", {_ON}}})')],
            width=4,
            steps=((None, RED), (2, GREEN)),
        ),
        Panel(
            "stat",
            "Version",
            "Of the agent.",
            [Query(f"max by (version) (warmslice_build_info{{{_ON}}})", "{{version}}")],
            width=4,
            names=True,
            steps=((None, GREY),),
        ),
    ),
)

NODE = Dashboard(
    "warmslice-node",
    "WarmSlice / Node",
    "Layout, GPUs, slices and models of one node.",
    (Variable("node", "warmslice_build_info", several=False),),
    (LAYOUT, GPUS, SLICES, MODELS, AGENT),
    (("Fleet", "/d/warmslice-fleet"),),
)
