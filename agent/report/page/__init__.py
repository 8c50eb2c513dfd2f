"""The status page: an overview as one HTML document, and its sections by themselves. Pure."""

from agent.report.page.document import HEADERS, document
from agent.report.page.sections import sections

__all__ = ["HEADERS", "document", "sections"]
