"""The door to NVML: the only package that imports pynvml.

# Note [NVML on threads]
# NVML calls block, some for a second, some for ever. Reads run on one thread, the changes of each GPU on one of its own. A
# call that outlives its deadline makes its GPU unknown until the call comes back, and no other GPU: the thread is left
# behind and a new one takes its place. The call may still take effect, so its result is never assumed; the next read tells.
"""

from agent.adapters.nvml.hardware import Hardware

__all__ = ["Hardware"]
