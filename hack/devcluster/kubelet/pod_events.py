"""Events that the kubelet writes about pods."""

from __future__ import annotations

from hack.devcluster.client import Client
from hack.devcluster.objects import Object, name_of, namespace_of, now, random_suffix, uid_of


async def warn(client: Client, node: str, pod: Object, reason: str, message: str) -> None:
    """Raises what the client raises."""
    namespace = namespace_of(pod)
    reference = {"apiVersion": "v1", "kind": "Pod", "name": name_of(pod), "namespace": namespace, "uid": uid_of(pod)}
    event: Object = {
        "metadata": {"name": f"{name_of(pod)}.{random_suffix(16)}", "namespace": namespace},
        "involvedObject": reference,
        "type": "Warning",
        "reason": reason,
        "message": message[:1024],
        "source": {"component": "kubelet", "host": node},
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "count": 1,
    }
    await client.post(f"/api/v1/namespaces/{namespace}/events", event)
