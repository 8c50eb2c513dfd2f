"""What a pod finds below /var/run/secrets/kubernetes.io/serviceaccount, as a folder of the kubelet's.

A process outside of any container can be that pod for the API server: by a kubeconfig that names the two files, or by
the folder mounted at that place.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from hack.devcluster.client import Client
from hack.devcluster.kubeconfig import read_kubeconfig
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.objects import Object, dig, name_of, namespace_of, uid_of

# A real server asks for 3607 s and then signs for a year (--service-account-extend-token-expiration, on by default).
_TOKEN_SECONDS = 365 * 24 * 3600


def identity_folder(settings: KubeletSettings, uid: str) -> Path:
    """Holds ``token``, ``ca.crt`` and ``namespace`` while the pod runs."""
    return settings.run_dir / "pods" / uid / "kube-api-access"


async def project_identity(client: Client, settings: KubeletSettings, pod: Object) -> None:
    """Raises ApiError 404 where the account, or the pod, is not there."""
    namespace, account = namespace_of(pod), dig(pod, "spec.serviceAccountName")
    bound = {"apiVersion": "v1", "kind": "Pod", "name": name_of(pod), "uid": uid_of(pod)}
    made = await client.post(
        f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
        {"spec": {"expirationSeconds": _TOKEN_SECONDS, "boundObjectRef": bound}},
    )
    folder = identity_folder(settings, uid_of(pod))
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(made["status"]["token"])
    (folder / "ca.crt").write_text(read_kubeconfig(settings.kubeconfig).authority)
    (folder / "namespace").write_text(namespace)


def remove_identity(settings: KubeletSettings, uid: str) -> None:
    shutil.rmtree(settings.run_dir / "pods" / uid, ignore_errors=True)
