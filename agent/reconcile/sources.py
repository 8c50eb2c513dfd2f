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
from agent.model.cold_start import Ledger, vouch
from agent.model.labels import MODELS
from agent.model.node import Node
from agent.model.report import NodeStatus
from agent.observe.world import read_layouts as text_of
from agent.reconcile.catalog import read_wish


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


def unready_models(catalog_file: str, node: Node) -> str:
    """Which gated models that the node wants with its labels of now are not on its disk, by what the cache role says there, in
    words; why that is not known where the catalog cannot be read. Without a file ("") nobody asks, and nothing is read."""
    if not catalog_file:
        return ""
    wish = read_wish(TextFile(Path(catalog_file)), node.labels)
    if isinstance(wish, CatalogRefusal):
        return wish.message
    vouched = Ledger.from_json(node.annotations.get(MODELS, "{}")).vouched
    words = []
    for model in (model for model in wish.wanted if model.gate):
        state = node.labels.get(model.label, "not looked at yet")
        if state != ModelState.READY:
            words.append(f"{model.name} is {state}")
        elif vouched.get(model.name) != vouch(model.repository, model.revision, node.boot_id):
            words.append(f"{model.name} is ready, but of another revision or boot")
    return ", ".join(words)
