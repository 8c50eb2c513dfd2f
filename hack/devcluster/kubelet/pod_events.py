"""Events that the kubelet writes about pods."""

from __future__ import annotations

from hack.devcluster.client import Client
from hack.devcluster.objects import Object, name_of, namespace_of, now, random_suffix, uid_of


async def warn(client: Client, node: str, pod: Object, reason: str, message: str) -> None:
    """Raises what the client raises."""
    await _post(client, node, pod, "Warning", reason, message, {})


async def say(client: Client, node: str, pod: Object, reason: str, message: str, field: str) -> None:
    """The like about what goes as it should; ``field`` is the path of what it is about in the pod."""
    await _post(client, node, pod, "Normal", reason, message, {"fieldPath": field})


async def _post(
    client: Client, node: str, pod: Object, kind: str, reason: str, message: str, more: dict[str, str]
) -> None:
    namespace = namespace_of(pod)
    reference = {"apiVersion": "v1", "kind": "Pod", "name": name_of(pod), "namespace": namespace, "uid": uid_of(pod)}
    reference |= more
    event: Object = {
        "metadata": {"name": f"{name_of(pod)}.{random_suffix(16)}", "namespace": namespace},
        "involvedObject": reference,
        "type": kind,
        "reason": reason,
        "message": message[:1024],
        "source": {"component": "kubelet", "host": node},
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "count": 1,
    }
    await client.post(f"/api/v1/namespaces/{namespace}/events", event)
