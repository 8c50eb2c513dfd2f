"""The whole cluster as one command: the control plane in this process, one kubelet process per node.

It speaks TLS by an authority of its own. RUN_DIR/kubeconfig is the administrator's. What a pod finds of its account is in
RUN_DIR/NODE/pods/UID/kube-api-access (token, ca.crt, namespace) while it runs.

Ends at SIGTERM or SIGINT with nothing left behind. Should this process be killed, the kernel ends the kubelets and
the lifeline ends the pods' processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

from hack.devcluster import gpu_operator, nvidia_dra_driver
from hack.devcluster.access.users import ANONYMOUS
from hack.devcluster.control_plane import ControlPlane
from hack.devcluster.faults import read_faults
from hack.devcluster.kubeconfig import write_kubeconfig
from hack.devcluster.kubelet.__main__ import add_node_options
from hack.devcluster.lifeline import Lifeline
from hack.devcluster.node_processes import KubeletProcess
from hack.devcluster.request_log import LOG_LENGTH


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.run_dir.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.devcluster", description=__doc__)
    parser.add_argument("--nodes", default="", help="names, separated by commas; each gets a kubelet in RUN_DIR/NAME")
    parser.add_argument("--run-dir", type=Path, required=True, help="where the kubeconfig and the nodes' folders go")
    parser.add_argument("--port", type=int, default=0, help="of the API server; 0 takes a free one")
    parser.add_argument("--bookmark-interval", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--log-length", type=int, default=LOG_LENGTH, help="so many requests are remembered")
    parser.add_argument("--api-only", action="store_true", help="no controllers and no scheduler")
    parser.add_argument("--joined", type=Path, metavar="SOCKET", help="also serve who joins many connections in one")
    parser.add_argument("--rbac", action="store_true", help="enforce roles; without it everybody may do everything")
    parser.add_argument(
        "--no-anonymous",
        action="store_true",
        help="answer 401 to requests without a token; without it they come from system:anonymous",
    )
    parser.add_argument(
        "--plugin-config",
        default="",
        metavar="NAME[/ENTRY]",
        help=f"the device plugin's ConfigMap in {gpu_operator.NAMESPACE}, and the entry for nodes without a label",
    )
    parser.add_argument("--faults", type=Path, metavar="FILE", help="a YAML list of faults, from the first request on")
    add_node_options(parser)
    return parser


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    lifeline = Lifeline(options.run_dir.absolute() / "lifeline")
    plane = ControlPlane(
        port=options.port,
        bookmark_interval_s=options.bookmark_interval,
        rbac=options.rbac,
        without_token=None if options.no_anonymous else ANONYMOUS,
        log_length=options.log_length,
        has_controllers=not options.api_only,
    )
    for fault in read_faults(options.faults) if options.faults else ():
        plane.server.faults.add(fault)
    async with plane as control_plane:
        if options.dra:
            nvidia_dra_driver.install(control_plane.api)
        else:
            name, _, default = options.plugin_config.partition("/")
            gpu_operator.install(control_plane.api, name, default)
        if options.joined is not None:
            await control_plane.server.serve_joined(options.joined)
        kubeconfig = options.run_dir / "kubeconfig"
        write_kubeconfig(kubeconfig, control_plane.access(control_plane.admin_token))
        nodes = [_kubelet(control_plane, options, lifeline, name) for name in options.nodes.split(",") if name]
        supervisors = [asyncio.create_task(node.supervise(), name=node.node) for node in nodes]
        print(f"{control_plane.url}\nexport KUBECONFIG={kubeconfig}", flush=True)
        await stop.wait()
        for supervisor in supervisors:
            supervisor.cancel()
        await asyncio.gather(*supervisors, return_exceptions=True)
    lifeline.close()


def _kubelet(control_plane: ControlPlane, options: argparse.Namespace, lifeline: Lifeline, node: str) -> KubeletProcess:
    run_dir = options.run_dir / node
    run_dir.mkdir(exist_ok=True)
    kubeconfig = run_dir / "kubeconfig"
    write_kubeconfig(kubeconfig, control_plane.kubelet_access(node))
    return KubeletProcess(kubeconfig, node, run_dir, lifeline.path, _node_options(options, node))


def _node_options(options: argparse.Namespace, node: str) -> list[str]:
    """``{node}`` in the state's path stands for the node's name, so that each node has GPUs of its own."""
    given: list[str] = []
    labels = list(options.label)
    if options.simgpu_dir is not None and options.simgpu_state is not None:
        state = str(options.simgpu_state).format(node=node)
        given += ["--simgpu-dir", str(options.simgpu_dir), "--simgpu-state", state]
        labels += [f"{key}={value}" for key, value in gpu_operator.NODE_LABELS.items()]
    if options.devices_file is not None:
        given += ["--devices-file", str(options.devices_file)]
    if options.plugin_without_pod:
        given.append("--plugin-without-pod")
    if options.dra:
        given.append("--dra")
    if options.register_with_taints:
        given += ["--register-with-taints", options.register_with_taints]
    for label in labels:
        given += ["--label", label]
    passed_on = "mig_strategy plugin_start mps_start config_sync image_pull status_interval pod_start pod_stop"
    for name in passed_on.split():
        given += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return given
