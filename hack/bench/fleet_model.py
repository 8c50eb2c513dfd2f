"""What a fleet of N nodes costs its API server, on paper. Requests are counted; sizes and times of a kube-apiserver are figures
that were measured on one (1.36, loopback)."""

from __future__ import annotations

from dataclasses import dataclass

WATCHES = 4
"""Of a node: each of its two processes watches the node object, and the pods that are bound to it."""
RESYNC_SECONDS = 600.0
"""A watch lives so long, then its objects are listed again."""
NODES_PER_JITTER_SECOND = 100
"""Past a thousand nodes ``reconnect_jitter_seconds`` grows with the fleet here, as the benchmark's API server needs it."""
AWAY_SECONDS = 5.0
NODE_WRITES = 3
"""Of a change: begin (and pause, where nobody has to be moved), resume, end."""
WAIT_WRITES = 2
"""That it waits for a slot, at once, and for whom, when the leader has said it; the second is spared in a small fleet."""
LEASE_REQUESTS = 8
"""A slot: the leader looked up, and again when it has said how many wait (spared where the change is over in five seconds); the
slot asked for, watched (a list and a watch), granted, confirmed and given back."""
EVENTS = 4
"""With each of these but the one in mid-change."""
KUBELET_SECONDS, NODE_KB = 300.0, 20.0
"""A kubelet reports an unchanged node so often, and each report goes to whoever watches that node."""
WATCH_MB = 0.225
"""Memory of a kube-apiserver for one watch over its own connection."""
LIST_CPU_MS = 1.5
"""Of a list of one node's pods from its cache."""


@dataclass(frozen=True, slots=True)
class Model:
    """Of so many nodes."""

    nodes: int

    @property
    def jitter_seconds(self) -> float:
        """``reconnect_jitter_seconds`` of such a fleet."""
        return max(10.0, self.nodes / NODES_PER_JITTER_SECOND)

    @property
    def rest_per_second(self) -> float:
        """Lists and watches: each watch is renewed, and its objects listed, once in a resync."""
        return self.nodes * WATCHES * 2 / RESYNC_SECONDS

    @property
    def node_writes(self) -> float:
        return float(self.nodes * (NODE_WRITES + WAIT_WRITES))

    @property
    def relabel_requests(self) -> float:
        return self.node_writes + self.nodes * (LEASE_REQUESTS + EVENTS)

    @property
    def restart_requests(self) -> float:
        """Every watch is tried and told that its past is forgotten; then a list and a watch. A server that is away sees nothing
        of those that try too soon."""
        return float(self.nodes * WATCHES * 3)

    @property
    def restart_peak(self) -> float:
        """In one second: first tries come within the jitter, a list and a watch within as long after each."""
        return self.nodes * WATCHES * 3 / self.jitter_seconds

    @property
    def herd_peak(self) -> float:
        """The same where each lists at once, as if nobody had thought of it."""
        return float(self.nodes * WATCHES * 2)

    @property
    def catalog_requests(self) -> float:
        """One patch of a node's labels."""
        return float(self.nodes)

    @property
    def heartbeat_kb_per_second(self) -> float:
        """Each of the two processes of a node is sent its own node."""
        return self.nodes * 2 * NODE_KB / KUBELET_SECONDS

    @property
    def watch_memory_mb(self) -> float:
        return self.nodes * WATCHES * WATCH_MB

    @property
    def rest_cpu_percent(self) -> float:
        """Of a core of the API server, for the lists."""
        return self.rest_per_second / 2 * LIST_CPU_MS / 10
