"""Where a node's wishes come from: its labels, and the layouts file as it is at this moment."""

from __future__ import annotations

from collections.abc import Mapping

from agent.desired.layout_file import Layouts, parse_layouts
from agent.desired.resolve import Sources
from agent.model.errors import BadInputError
from agent.model.report import NodeStatus
from agent.observe.world import read_layouts


def sources_of(label_key: str, layouts_file: str, labels: Mapping[str, str], last: NodeStatus | None) -> Sources:
    """A file that cannot be read, or has a mistake, says so to those wishes only that need it."""
    text, error = read_layouts(layouts_file)
    layouts: Layouts = {}
    if not error:
        try:
            layouts = parse_layouts(text, layouts_file)
        except BadInputError as mistake:
            error = str(mistake)
    return Sources(label_key, labels, layouts, error, last.gpus if last is not None else None)
