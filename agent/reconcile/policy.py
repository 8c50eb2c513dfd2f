"""What the settings say about a change of layout."""

from __future__ import annotations

from agent.plan.drain import DrainPolicy
from agent.plan.way import Policy
from agent.settings import Settings


def catalog_to_wait_for(settings: Settings) -> str:
    """The catalog whose gated models a change of layout waits for; empty for none."""
    return settings.catalog_file if settings.cache_aware else ""


def policy_of(settings: Settings) -> Policy:
    """The same for the agent, for a question and for a change by hand."""
    drain = DrainPolicy(settings.evict_unmanaged, settings.evict_disk_scratch)
    return Policy(
        drain,
        wait_for_jobs_seconds=settings.wait_for_jobs_seconds,
        drain_seconds=settings.drain_seconds,
        patience_seconds=settings.patience_seconds,
        advertise_seconds=settings.advertise_seconds,
        prepares=bool(settings.before_commands),
        refreshes=bool(settings.refresh_commands),
        reboots=bool(settings.reboot_command),
        reboot_seconds=settings.reboot_timeout_seconds,
    )
