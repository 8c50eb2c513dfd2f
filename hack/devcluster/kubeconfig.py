"""How to reach the API server as somebody: as a value, and as the file that kubectl, kubelets and agents read."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Access:
    """``authority`` is the PEM of the certificate authority to trust. Without a token one is system:anonymous."""

    server: str
    authority: str
    token: str = ""


def write_kubeconfig(path: Path, access: Access) -> None:
    cluster = {"server": access.server, "certificate-authority-data": _encoded(access.authority)}
    _write(path, cluster, {"token": access.token} if access.token else {})


def read_kubeconfig(path: Path) -> Access:
    """One that was written here."""
    config = json.loads(path.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    return Access(cluster["server"], authority, user.get("token", ""))


def write_pod_kubeconfig(path: Path, server: str, identity: Path) -> None:
    """As the pod whose ``token`` and ``ca.crt`` lie in the folder ``identity``; both are read when they are needed."""
    cluster = {"server": server, "certificate-authority": str(identity / "ca.crt")}
    _write(path, cluster, {"tokenFile": str(identity / "token")})


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _write(path: Path, cluster: dict[str, str], user: dict[str, str]) -> None:
    """JSON is YAML, too. Only the owner may read it."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "devcluster",
        "clusters": [{"name": "devcluster", "cluster": cluster}],
        "users": [{"name": "developer", "user": user}],
        "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": "developer"}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2) + "\n")
