"""HTML for notebooks, and pages that stand alone, from the templates of ``emotrace/templates``.

What is put into a template is escaped. A page carries a content security policy that lets nothing be loaded.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from emotrace import arguments
from emotrace.files import write_file
from emotrace.whatif.shading import EDGES, Cell, palette, visible


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, with the colours and the filters that they share."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("emotrace"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"visible": visible, "signed": signed}
    templates.globals |= {"palette": {theme: palette(theme) for theme in ("light", "dark")}, "edges": EDGES}
    return templates


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, the minus as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def render(template: str, **values: object) -> Markup:
    """A template with values put into it."""
    return Markup(environment().get_template(template).render(values))


def coloured(cells: Sequence[Cell], prompt: int = 0) -> Markup:
    """The coloured text; its first ``prompt`` characters are shown softer."""
    starts = itertools.accumulate((len(cell.text) for cell in cells), initial=0)
    return render("tokens.html.j2", cells=[(cell, start < prompt) for cell, start in zip(cells, starts, strict=False)])


@arguments.checked
def write_page(path: str | Path, title: str, fragment: str) -> Path:
    """Writes a document around a fragment, whole or not at all.

    Raises:
        EmotraceError: it cannot be written.
    """
    path, page = Path(path), render("page.html.j2", title=title, fragment=Markup(fragment), language="en")
    write_file(path, page.encode())
    return path
