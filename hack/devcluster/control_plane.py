"""The API server with its controllers and scheduler, in one event loop."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from hack.devcluster import kinds
from hack.devcluster.access.rbac import create_first_roles
from hack.devcluster.access.users import ANONYMOUS, User
from hack.devcluster.admission.quotas import status_of
from hack.devcluster.api import Api
from hack.devcluster.controllers.budgets import BUDGET_CONTROLLER
from hack.devcluster.controllers.housekeeping import HOUSEKEEPING_CONTROLLERS
from hack.devcluster.controllers.jobs import job_controller
from hack.devcluster.controllers.loop import Controller, run_controller
from hack.devcluster.controllers.node_lifecycle import lifecycle_controllers
from hack.devcluster.controllers.statefulsets import STATEFULSET_CONTROLLER
from hack.devcluster.controllers.timings import Timings
from hack.devcluster.controllers.workloads import workload_controllers
from hack.devcluster.objects import name_of, namespace_of
from hack.devcluster.scheduler import SCHEDULER_CONTROLLER
from hack.devcluster.server import BOOKMARK_INTERVAL_S, ApiServer

FIRST_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


def _sync_quotas(api: Api) -> None:
    for quota in api.all(kinds.QUOTAS):
        counted = {**quota, "status": status_of(api.store, quota)}
        api.update(kinds.QUOTAS, namespace_of(quota), name_of(quota), counted, subresource="status")


QUOTA_CONTROLLER = Controller(
    "quotas", tuple(kind for kind in kinds.ALL_KINDS if kind.namespaced and kind is not kinds.LEASES), _sync_quotas
)


def controllers(timings: Timings) -> list[Controller]:
    """Of one control plane: some of them remember what they saw."""
    return [
        *workload_controllers(timings), STATEFULSET_CONTROLLER, job_controller(timings), BUDGET_CONTROLLER,
        *lifecycle_controllers(timings), *HOUSEKEEPING_CONTROLLERS, QUOTA_CONTROLLER, SCHEDULER_CONTROLLER,
    ]  # fmt: skip


class ControlPlane:
    """``rbac`` enforces roles; without it everybody may do everything. ``async with`` it: the URL is served inside, and
    nothing is left afterwards."""

    def __init__(
        self,
        *,
        port: int = 0,
        bookmark_interval_s: float = BOOKMARK_INTERVAL_S,
        timings: Timings = Timings(),  # noqa: B008  frozen
        rbac: bool = False,
        without_token: User | None = ANONYMOUS,
    ) -> None:
        self.api = Api()
        self._timings = timings
        self.server = ApiServer(self.api, port=port, bookmark_interval_s=bookmark_interval_s)
        self.server.gate.authorizer.enforced = rbac
        self.server.gate.authenticator.without_token = without_token
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def admin_token(self) -> str:
        """Of a member of system:masters, whom RBAC lets do everything."""
        return self.server.gate.authenticator.admin_token

    async def __aenter__(self) -> ControlPlane:
        for namespace in FIRST_NAMESPACES:
            self.api.create(kinds.NAMESPACES, "", {"metadata": {"name": namespace}})
        create_first_roles(self.api)
        await self.server.start()
        self._tasks = [
            asyncio.create_task(run_controller(self.api, controller), name=controller.name)
            for controller in controllers(self._timings)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop()
        await asyncio.gather(*self._tasks)


def write_kubeconfig(path: Path, url: str, token: str = "") -> None:
    """Without a token its user is system:anonymous. JSON is YAML, too."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "devcluster",
        "clusters": [{"name": "devcluster", "cluster": {"server": url}}],
        "users": [{"name": "developer", "user": {"token": token} if token else {}}],
        "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": "developer"}}],
    }
    path.write_text(json.dumps(config, indent=2) + "\n")
    path.chmod(0o600)
