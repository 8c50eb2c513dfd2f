"""What is wrong with a file that a person wrote, before an agent reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agent.desired.catalog import read_catalog
from agent.desired.layout_file import LayoutFile, Layouts, parse_layouts, read_layouts
from agent.desired.resolve import Sources, name_refusal, resolve
from agent.desired.sharing import layout_refusal, sharings
from agent.model.catalog import CatalogRefusal
from agent.model.desired import Refusal
from agent.model.errors import BadInputError
from agent.model.labels import CONFIG
from agent.model.mig import Gpu
from agent.model.text import read_yaml
from agent.observe.paper import gpu_on_paper
from agent.plan.geometry import feasible
from agent.report.plugin_config import config_map


def check_file(file: str, model: str | None) -> tuple[int, str]:
    """(exit code, text): every mistake of a layouts file, a line each (2); the layouts that cannot be shared as they ask, and
    with a GPU model also those that it cannot have (1). Of a model catalog every mistake too."""
    text = _text_of(file)
    if _is_catalog(text):
        catalog = read_catalog(text)
        if isinstance(catalog, CatalogRefusal):
            return 2, catalog.at(file)
        return 0, f"{file}: {len(catalog.models)} models, {len(catalog.sets)} sets: good"
    read = read_layouts(text)
    if read.mistakes:
        return 2, "\n".join(mistake.at(file) for mistake in read.mistakes)
    gpu = gpu_on_paper(model) if model else None
    wrong = [*(_impossible(read.layouts, gpu) if gpu else _unshareable(read.layouts)), *_off_schedule(read, gpu)]
    said = f"{len(read.layouts)} layouts" + (f", {len(read.schedules)} schedules" if read.schedules else "")
    return (1 if wrong else 0), "\n".join([*wrong, f"{file}: {said}, {len(wrong)} refused"])


def plugin_config(file: str) -> str:
    """The ConfigMap of the device plugin that a layouts file needs. BadInputError where a layout in it cannot be shared so."""
    layouts = parse_layouts(_text_of(file), file)
    for sentence in _unshareable(layouts):
        raise BadInputError(f"{file}: {sentence}")
    return config_map(sharings(layouts))


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file}: {error}") from error


def _is_catalog(text: str) -> bool:
    try:
        document = read_yaml(text)
    except BadInputError:
        return False
    return isinstance(document, dict) and bool({"models", "sets"} & set(document))


def _unshareable(layouts: Layouts) -> Iterable[str]:
    for name, entries in layouts.items():
        refusal = layout_refusal(name, entries)
        if refusal is not None:
            yield refusal.message


def _off_schedule(read: LayoutFile, gpu: Gpu | None) -> Iterable[str]:
    """Periods whose layout is none, or, where a GPU is given, none of its. Named layouts have been looked at before."""
    for schedule in read.schedules.values():
        for period in schedule.periods:
            refusal = name_refusal(period.layout, read.layouts)
            if refusal is None and gpu is not None and period.layout not in read.layouts:
                refusal = _refusal_on(gpu, period.layout, read.layouts)
            if refusal is not None:
                yield f"schedules.{schedule.name}.periods.{period.name}: {refusal.message}"


def _impossible(layouts: Layouts, gpu: Gpu) -> Iterable[str]:
    for name in layouts:
        refusal = _refusal_on(gpu, name, layouts)
        if refusal is not None:
            yield refusal.message


def _refusal_on(gpu: Gpu, layout: str, layouts: Layouts) -> Refusal | None:
    wish = resolve(Sources(CONFIG, {CONFIG: layout}, layouts), (gpu,), feasible)
    return wish if isinstance(wish, Refusal) else None
