"""Hooks of the documentation site (``mkdocs.yml``): what the pages link to outside ``docs/`` comes with the site.

In the repository a page links to ``../notebooks/05_localisation.ipynb``; on the site that file lies under
``repository/``, and the link is turned there. A link to what does not exist stays, and the strict build fails on it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PLACE = "repository"
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)()")
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):<code>(~?)([^<]*)</code>")


def on_config(config: Any) -> Any:
    """Leaves out of the navigation what is not there yet."""
    config.nav = [entry for entry in map(_present, config.nav) if entry]
    return config


def _present(entry: Any) -> Any:
    if isinstance(entry, str):
        return entry if (DOCS / entry).exists() else None
    if isinstance(entry, list):
        return [part for part in map(_present, entry) if part]
    return {title: inside for title, part in entry.items() if (inside := _present(part))} or None


def on_files(files: Files, config: Any) -> Files:
    """Adds what pages link to outside of ``docs/``, and what those link to in turn."""
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for _, address, _ in (*LINK.findall(page.read_text()), *IMAGE.findall(page.read_text())):
            target = _outside(page, address)
            if target is None or target in seen or not target.is_file():
                continue
            seen.add(target)
            files.append(File.generated(config, _place(target), abs_src_path=str(target)))
            if target.suffix == ".md":
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns the links that leave ``docs/``; of one to a folder the words alone are left."""
    source = Path(page.file.abs_src_path)
    here = posixpath.dirname(page.file.src_uri)

    def turned(match: re.Match[str]) -> str:
        words, address, anchor = match[1], match[2], match[3] or ""
        target = _outside(source, address)
        if target is None:
            return match[0]
        if target.is_dir():
            return words
        place = target.relative_to(DOCS).as_posix() if target.is_relative_to(DOCS) else _place(target)
        mark = "!" if match[0].startswith("!") else ""
        return f"{mark}[{words}]({posixpath.relpath(place, here or '.')}{anchor})"

    return IMAGE.sub(turned, LINK.sub(turned, markdown))


def on_page_content(html: str, **_: Any) -> str:
    """Roles of docstrings (``:class:`~emotrace.files.Cache```) as the name alone."""
    return ROLE.sub(lambda match: f"<code>{match[2].rpartition('.')[2] if match[1] else match[2]}</code>", html)


def _outside(page: Path, address: str) -> Path | None:
    """The file that a link leads to, where its page or the file lies outside of ``docs/``; else None."""
    if re.match(r"[a-z]+:", address):
        return None
    target = (page.parent / address).resolve()
    inside = page.is_relative_to(DOCS) and target.is_relative_to(DOCS)
    return None if inside or not target.is_relative_to(ROOT) else target


def _place(target: Path) -> str:
    return f"{PLACE}/{target.relative_to(ROOT).as_posix()}"
