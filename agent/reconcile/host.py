"""The configured commands on the host around a change."""

from __future__ import annotations

from agent.adapters import command
from agent.settings import Settings


class HostCommands:
    """What the settings have run before a change and after it, and what reboots the machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def prepare(self) -> None:
        """Have the host's services let go of the GPUs."""
        await command.run_all(self._settings.before_commands, self._settings.command_timeout_seconds)

    async def refresh(self) -> None:
        """Make capability nodes, CDI and the host's services follow the slices."""
        await command.run_all(self._settings.refresh_commands, self._settings.command_timeout_seconds)

    async def reboot(self) -> None:
        """Reboot this machine."""
        await command.reboot(self._settings.reboot_command, self._settings.reboot_timeout_seconds)
