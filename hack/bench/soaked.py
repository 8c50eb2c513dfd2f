"""The agent, as ``python -m agent``, that says how it stands when it is sent SIGUSR2: tasks of its loop, memory."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import threading

from agent.cli import main
from hack.processes import rss_mb


def _say(*_: object) -> None:
    # Where the signal comes, the loop is running in this thread.
    gc.collect()
    # The loop's own pool fills as it is used, up to a few more than there are processors.
    threads = [thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    said = {"event": "soaked", "tasks": len(asyncio.all_tasks()), "rss_mb": rss_mb(), "threads": len(threads)}
    print(json.dumps(said), file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, _say)
    sys.exit(main())
