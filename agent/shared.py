"""What the roles of one process share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from agent.adapters.kube import Kube
from agent.adapters.watch import Watch
from agent.reconcile.own_node import OwnNode
from agent.reconcile.telling import CountedEvents
from agent.report.metrics import Metrics
from agent.settings import Settings

Pass = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Shared:
    """What the roles of one process share. ``start`` begins a task that ends with the agent; ``loop`` begins one that passes
    until the agent is told to go, and sooner when the event is set."""

    settings: Settings
    kube: Kube
    node: Watch
    pods: Watch
    events: CountedEvents
    metrics: Metrics
    start: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
    loop: Callable[[str, Pass, asyncio.Event], None]
    own: OwnNode
