"""The API server with its controllers and scheduler, in one event loop."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.controllers.budgets import BUDGET_CONTROLLER
from hack.devcluster.controllers.housekeeping import HOUSEKEEPING_CONTROLLERS
from hack.devcluster.controllers.loop import run_controller
from hack.devcluster.controllers.workloads import WORKLOAD_CONTROLLERS
from hack.devcluster.scheduler import SCHEDULER_CONTROLLER
from hack.devcluster.server import BOOKMARK_INTERVAL_S, ApiServer

FIRST_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
CONTROLLERS = (*WORKLOAD_CONTROLLERS, BUDGET_CONTROLLER, *HOUSEKEEPING_CONTROLLERS, SCHEDULER_CONTROLLER)


class ControlPlane:
    """``async with`` it: the URL is served inside, and nothing is left afterwards."""

    def __init__(self, *, port: int = 0, bookmark_interval_s: float = BOOKMARK_INTERVAL_S) -> None:
        self.api = Api()
        self.server = ApiServer(self.api, port=port, bookmark_interval_s=bookmark_interval_s)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        return self.server.url

    async def __aenter__(self) -> ControlPlane:
        for namespace in FIRST_NAMESPACES:
            self.api.create(kinds.NAMESPACES, "", {"metadata": {"name": namespace}})
        await self.server.start()
        self._tasks = [
            asyncio.create_task(run_controller(self.api, controller), name=controller.name)
            for controller in CONTROLLERS
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop()
        await asyncio.gather(*self._tasks)


def write_kubeconfig(path: Path, url: str) -> None:
    """Plain HTTP needs no credentials; JSON is YAML, too."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "devcluster",
        "clusters": [{"name": "devcluster", "cluster": {"server": url}}],
        "users": [{"name": "developer", "user": {}}],
        "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": "developer"}}],
    }
    path.write_text(json.dumps(config, indent=2) + "\n")
