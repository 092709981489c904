"""Says everywhere where the project is published: ``python scripts/set_repository.py https://github.com/OWNER/emotrace``.

The package's links, the citation, the site's link to its source, and in the README links that open notebooks 00 and 02
on a hosted notebook service (for an address on GitHub; else how to take one there). Run again with another address, the
old one goes. Until it is run, nothing claims an address.
"""

from __future__ import annotations

import argparse
import re
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = ("Repository", "Issues", "Changelog")
HOSTED = {"quick start": "00_quickstart", "comprehension": "02_comprehension"}
SERVICE = "https://colab.research.google.com/github"
BLOCK = re.compile(r"<!-- hosted:begin -->.*?<!-- hosted:end -->", re.DOTALL)


def address(text: str) -> str:
    """The address without what follows it.

    Raises:
        ValueError: it is no https address of an owner and a name.
    """
    parts = urllib.parse.urlsplit(text.strip())
    path = parts.path.strip("/").removesuffix(".git")
    more = parts.query or parts.fragment or "@" in parts.netloc
    deep = parts.netloc == "github.com" and path.count("/") != 1
    if parts.scheme != "https" or not parts.netloc or more or deep or not re.fullmatch(r"[\w.-]+(/[\w.-]+)+", path):
        raise ValueError("not an address of a repository (https://HOST/OWNER/NAME, without a user or a query)")
    return f"https://{parts.netloc}/{path}"


def package(text: str, url: str) -> str:
    """``pyproject.toml`` with the address among its links."""
    head, mark, rest = text.partition("[project.urls]\n")
    links, _, after = rest.partition("\n\n")
    kept = [line for line in links.splitlines() if not line.startswith(NAMES)]
    targets = (url, f"{url}/issues", f"{url}/blob/main/CHANGELOG.md")
    added = [f'{name} = "{target}"' for name, target in zip(NAMES, targets, strict=True)]
    return head + mark + "\n".join([*kept, *added]) + "\n\n" + after


def with_line(text: str, key: str, url: str, before: str) -> str:
    """A YAML file with ``key: url``, in place of the old one or before the line that begins with ``before``."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(f"{key}:")]
    at = next(number for number, line in enumerate(lines) if line.startswith(before))
    return "".join([*lines[:at], f"{key}: {url}\n", *lines[at:]])


def hosted(text: str, url: str) -> str:
    """The README with links to a hosted notebook service."""
    host, _, path = url.removeprefix("https://").partition("/")
    if host == "github.com":
        links = [f"[{name}]({SERVICE}/{path}/blob/main/notebooks/{file}.ipynb)" for name, file in HOSTED.items()]
        block = f"On a hosted notebook service: {', '.join(links)}; a first cell"
    else:
        block = "On a hosted notebook service, upload one: its first cell"
    block += "\ninstalls emotrace, once that is on a package index."
    if not BLOCK.search(text):
        raise ValueError("README.md has no place for the links: <!-- hosted:begin --> and <!-- hosted:end -->")
    return BLOCK.sub(lambda _: f"<!-- hosted:begin -->\n{block}\n<!-- hosted:end -->", text)


def main(root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address")
    try:
        written = changed(address(parser.parse_args().address), root)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
        print(path.name)


def changed(url: str, root: Path) -> dict[Path, str]:
    """What each file then says."""
    changes = {
        "pyproject.toml": lambda text: package(text, url),
        "CITATION.cff": lambda text: with_line(text, "repository-code", url, "license:"),
        "mkdocs.yml": lambda text: with_line(text, "repo_url", url, "strict:"),
        "README.md": lambda text: hosted(text, url),
    }
    return {root / name: change((root / name).read_text(encoding="utf-8")) for name, change in changes.items()}


if __name__ == "__main__":
    main()
