"""`warmslice doctor`: what is wrong with a cluster, a node of it, or this host, and what to change. Changes nothing."""

from __future__ import annotations

import os
import socket

from agent.adapters import clock
from agent.adapters.inspection import Inspection
from agent.adapters.kube import Kube
from agent.model.doctor import Diagnosis
from agent.plan.doctor import in_order
from agent.plan.doctor.host import examine_host, gaps_of
from agent.reconcile.doctor import examine, nothing_asked
from agent.reconcile.doctor.here import host_view
from agent.settings import Settings


async def doctor(settings: Settings, node: str, alone: bool = False) -> Diagnosis:
    """Through the API server: all of the cluster, or with ``node`` that node and what is no node's alone; ``alone``: as little of
    the rest as will do."""
    kube = await Kube.connect(settings.kubeconfig)
    try:
        return await examine(Inspection(kube), node, clock.now(), alone)
    finally:
        await kube.close()


async def doctor_here(settings: Settings) -> Diagnosis:
    """This host; and what the API server says of its node, where something says how to reach one."""
    view = await host_view(settings)
    named = settings.kubeconfig or os.environ.get("KUBECONFIG") or os.environ.get("KUBERNETES_SERVICE_HOST")
    name = settings.node_name or os.environ.get("NODE_NAME") or socket.gethostname().lower()
    of_host = examine_host(view, name)
    looked = {"GPUs of this host": len(view.gpus), "slices": sum(len(gpu.instances) for gpu in view.gpus)}
    if not named:
        return Diagnosis(in_order(of_host), (*gaps_of(view), nothing_asked()), looked)
    of_cluster = await doctor(settings, name, alone=True)
    return Diagnosis(
        in_order((*of_host, *of_cluster.findings)),
        (*gaps_of(view), *of_cluster.gaps),
        {**looked, **of_cluster.looked},
    )
