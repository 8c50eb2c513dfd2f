"""The API server with its controllers and scheduler, in one event loop."""

from __future__ import annotations

import asyncio

from hack.devcluster import kinds
from hack.devcluster.access.certificates import Authority
from hack.devcluster.access.rbac import create_first_roles
from hack.devcluster.access.users import ANONYMOUS, User, kubelet
from hack.devcluster.admission.priorities import first_priority_classes
from hack.devcluster.admission.quotas import status_of
from hack.devcluster.api import Api
from hack.devcluster.controllers.budgets import BUDGET_CONTROLLER
from hack.devcluster.controllers.deployments import deployment_controller
from hack.devcluster.controllers.housekeeping import HOUSEKEEPING_CONTROLLERS
from hack.devcluster.controllers.jobs import job_controller
from hack.devcluster.controllers.loop import Controller, run_controller
from hack.devcluster.controllers.node_lifecycle import lifecycle_controllers
from hack.devcluster.controllers.resource_claims import resource_claim_controller
from hack.devcluster.controllers.statefulsets import STATEFULSET_CONTROLLER
from hack.devcluster.controllers.timings import Timings
from hack.devcluster.controllers.workloads import workload_controllers
from hack.devcluster.kubeconfig import Access
from hack.devcluster.objects import name_of, namespace_of
from hack.devcluster.request_log import LOG_LENGTH
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
        *workload_controllers(timings), deployment_controller(timings), STATEFULSET_CONTROLLER, job_controller(timings),
        BUDGET_CONTROLLER, *lifecycle_controllers(timings), *HOUSEKEEPING_CONTROLLERS, QUOTA_CONTROLLER,
        resource_claim_controller(), SCHEDULER_CONTROLLER,
    ]  # fmt: skip


class ControlPlane:
    """``rbac`` enforces roles; without it everybody may do everything. ``without_token`` is who asks without any (None:
    nobody may). Without controllers it is the API server alone. ``async with`` it: the URL is served inside, in TLS, and nothing
    is left afterwards."""

    def __init__(
        self,
        *,
        port: int = 0,
        bookmark_interval_s: float = BOOKMARK_INTERVAL_S,
        timings: Timings = Timings(),  # noqa: B008  frozen
        rbac: bool = False,
        without_token: User | None = ANONYMOUS,
        log_length: int = LOG_LENGTH,
        has_controllers: bool = True,
    ) -> None:
        self.api = Api()
        self._controllers = controllers(timings) if has_controllers else []
        self.authority = Authority()
        tls = self.authority.server_context()
        self.server = ApiServer(
            self.api, port=port, bookmark_interval_s=bookmark_interval_s, tls=tls, log_length=log_length
        )
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

    def access(self, token: str = "") -> Access:
        """Of the token's holder; of system:anonymous without."""
        return Access(self.url, self.authority.pem, token)

    def kubelet_access(self, node: str) -> Access:
        """A real kubelet has a client certificate that says the same user."""
        return self.access(self.server.gate.authenticator.give_token(kubelet(node)))

    async def __aenter__(self) -> ControlPlane:
        for namespace in FIRST_NAMESPACES:
            self.api.create(kinds.NAMESPACES, "", {"metadata": {"name": namespace}})
        for priority_class in first_priority_classes():
            self.api.create(kinds.PRIORITY_CLASSES, "", priority_class)
        create_first_roles(self.api)
        await self.server.start()
        self._tasks = [
            asyncio.create_task(run_controller(self.api, controller), name=controller.name)
            for controller in self._controllers
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop()
        await asyncio.gather(*self._tasks)
