"""What went wrong, named by what the caller should do about it."""

from __future__ import annotations


class AgentError(Exception):
    """Base of every error of ours. The message is one clear sentence."""


class RetryError(AgentError):
    """A passing fault: try again, later each time. ``after_seconds`` is what the other side asked for, if it did."""

    def __init__(self, message: str, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class ConflictError(AgentError):
    """Our knowledge was stale: read again, decide again."""


class InUseError(AgentError):
    """Someone still holds the GPU or the slice. Not a fault: wait for them, or drain further."""


class BudgetError(AgentError):
    """A disruption budget forbids the eviction now: wait and ask again."""


class GoneError(AgentError):
    """The object is not there any more."""


class RefusedError(AgentError):
    """The other side will never accept this: asking again does not help; someone has to change something."""


class HardwareError(AgentError):
    """The driver refused or failed a change of a GPU: go back to what was."""


class RebootError(AgentError):
    """Only a reboot of the machine brings it, and it is waiting for one: reboot, or say so."""


class BadInputError(AgentError):
    """What a person wrote cannot be used; the sentence names the field, the value and what would be right."""
