"""Where a node's wishes come from: its labels, and the layouts file as it is at this moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.adapters.files import TextFile
from agent.desired.layout_file import LayoutFile, read_layouts
from agent.desired.resolve import Sources
from agent.desired.schedule import in_force
from agent.model.cache import ModelState
from agent.model.catalog import CatalogRefusal
from agent.model.report import NodeStatus
from agent.observe.world import read_layouts as text_of
from agent.reconcile.cache import read_wish


def sources_of(
    label_key: str, layouts_file: str, labels: Mapping[str, str], last: NodeStatus | None, now: float
) -> Sources:
    """A file that cannot be read, or has a mistake, says so to those wishes only that need it. ``now`` (seconds since the epoch)
    says what a schedule means."""
    text, error = text_of(layouts_file)
    read = LayoutFile({}, {}) if error else read_layouts(text)
    if read.mistakes:
        read, error = LayoutFile({}, {}), read.mistakes[0].at(layouts_file)
    schedule = read.schedules.get(labels.get(label_key, ""))
    period = in_force(schedule, now) if schedule is not None else None
    if period is not None:
        labels = {**labels, label_key: period.period.layout}
    return Sources(label_key, labels, read.layouts, error, last.gpus if last is not None else None, period)


def unready_models(catalog_file: str, labels: Mapping[str, str]) -> str:
    """Which gated models that a node with these labels wants are not on its disk, by its labels, in words; why that is not known
    where the catalog cannot be read. Without a file ("") nobody asks, and nothing is read."""
    if not catalog_file:
        return ""
    wish = read_wish(TextFile(Path(catalog_file)), labels)
    if isinstance(wish, CatalogRefusal):
        return wish.message
    gated = (model for model in wish.wanted if model.gate and labels.get(model.label) != ModelState.READY)
    return ", ".join(f"{model.name} is {labels.get(model.label, 'not looked at yet')}" for model in gated)
