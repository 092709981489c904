"""Pages in a real browser: nothing overflows, nothing is fetched, everything is readable, tables sort by keyboard.

``EMOTRACE_SCREENSHOTS=FOLDER`` keeps the pictures.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest

import emotrace
from emotrace.study import pipeline

HOSTILE = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\"> & \x1b[31m\u202e so"

pytestmark = pytest.mark.skipif(browser.executable() is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    try:
        started = browser.chromium()
        found = started.__enter__()
    except RuntimeError as error:
        pytest.skip(str(error))
    yield found
    started.__exit__(None, None, None)


@pytest.fixture(scope="module")
def shots(tmp_path_factory) -> Path:
    return Path(os.environ.get("EMOTRACE_SCREENSHOTS") or tmp_path_factory.mktemp("shots"))


@pytest.fixture(scope="module")
def pages(tiny, tiny_folder, tmp_path_factory) -> dict[str, Path]:
    """One page of each kind, all made from hostile text."""
    folder = tmp_path_factory.mktemp("pages")
    model = tiny("llama", n_layers=6)
    vectors = emotrace.extract(model, pooling="mean")
    text = f"{HOSTILE} The footsteps stopped. 😀\n\nA{'n endless' * 30} word."
    run = folder / "run"
    pipeline.run([str(tiny_folder("gpt2"))], run, chosen="separation,localisation,geometry", quick=True)
    return {
        "what-if": emotrace.what_if(model, HOSTILE, "sad", 0.8, vectors=vectors).to_html(folder / "what-if.html"),
        "reading": emotrace.read_emotions(model, text, vectors=vectors).to_html(folder / "reading.html"),
        "map": emotrace.read_emotions(model, text, "sad", layer="all", vectors=vectors).to_html(folder / "map.html"),
        "report": run / "report.html",
    }


KINDS = ("what-if", "reading", "map", "report")

# Elements beyond the right edge, unless something around them scrolls.
OVERFLOWING = """
[...document.querySelectorAll("body *")].filter(element => {
  if (element.getBoundingClientRect().right <= innerWidth + 1 || !element.getClientRects().length) return false;
  for (let around = element.parentElement; around; around = around.parentElement)
    if (/auto|scroll/.test(getComputedStyle(around).overflowX)
        && around.getBoundingClientRect().right <= innerWidth + 1) return false;
  return true;
}).map(element => element.outerHTML.slice(0, 120))
"""

# Texts whose contrast with what lies behind them is below 4.5 (WCAG 2.1, AA).
FAINT = """
(() => {
  const parse = colour => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    return [...parts.slice(0, 3), parts[3] ?? 1];
  };
  const linear = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = colour => {
    const [r, g, b] = colour.slice(0, 3).map(linear);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = element => {
    for (let around = element; around; around = around.parentElement) {
      const back = parse(getComputedStyle(around).backgroundColor);
      if (back[3] === 1) return back;
      if (back[3] > 0) throw new Error("half transparent: " + around.outerHTML.slice(0, 80));
    }
    return [255, 255, 255];
  };
  const faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    if (element.matches("script, style")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) faint.push(element.outerHTML.slice(0, 120));
  }
  return faint;
})()
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [browser.PHONE, browser.DESKTOP])
def test_a_page_fits_is_readable_and_fetches_nothing(chromium, pages, shots, kind, width, dark):
    chromium.open(pages[kind], width, dark)
    chromium.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert chromium.run("document.documentElement.scrollWidth") == width
    assert chromium.run(OVERFLOWING) == []
    assert chromium.run(FAINT) == []
    asked = [address for address in chromium.requests if not address.startswith("data:")]
    assert asked == [pages[kind].resolve().as_uri()]
    assert chromium.run("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert chromium.complaints == []
    picture = chromium.photograph(shots / f"{kind}-{width}-{'dark' if dark else 'light'}.png")
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_lets_nothing_be_loaded_or_run(chromium, pages, kind):
    chromium.open(pages[kind], browser.DESKTOP)
    chromium.run("""
      for (const [tag, facts] of [
        ["img", {src: "http://127.0.0.1:9/a.png"}], ["script", {textContent: "document.title = 'run'"}],
      ]) document.body.append(Object.assign(document.createElement(tag), facts));
      new Promise(done => setTimeout(done, 200))
    """)
    assert chromium.run("document.title") != "run"
    assert any("Content Security Policy" in line for line in chromium.complaints)


@pytest.mark.parametrize("kind", ["what-if", "reading", "map"])
def test_hostile_text_is_shown_and_not_obeyed(chromium, pages, kind):
    chromium.open(pages[kind], browser.DESKTOP)
    assert chromium.run("document.title") != "run"
    assert chromium.run("document.querySelectorAll('main script, main img').length") == 0
    if kind != "map":
        shown = chromium.run("""
          document.querySelectorAll(".mark").forEach(mark => mark.remove());
          document.querySelectorAll(".named small").forEach(label => label.remove());
          document.querySelector(".text").textContent
        """)
        assert shown.startswith(HOSTILE.replace("\x1b", "␛").replace("\u202e", "\ufffd"))


def test_a_reports_table_sorts_by_keyboard(chromium, pages):
    chromium.open(pages["report"], browser.DESKTOP)
    column = """[...document.querySelector("table.sortable").tBodies[0].rows].map(row => row.cells[3].textContent)"""
    heading = "document.querySelectorAll('table.sortable th')[3]"
    before = chromium.run(column)
    numbers = sorted(float(text) for text in before if text != "–")
    assert len(numbers) > 3
    chromium.run(f"{heading}.querySelector('button').focus()")
    for order, expected in (("ascending", numbers), ("descending", numbers[::-1])):
        chromium.key("Enter", 13, "\r")
        after = chromium.run(column)
        assert [float(text) for text in after[: len(numbers)]] == expected
        assert set(after[len(numbers) :]) <= {"–"}
        assert chromium.run(f"{heading}.getAttribute('aria-sort')") == order


def test_a_reports_contents_lead_to_every_part(chromium, pages):
    chromium.open(pages["report"], browser.DESKTOP)
    broken = """
      [...document.querySelectorAll(".contents a, .jump a")]
        .map(a => a.hash.slice(1)).filter(id => !document.getElementById(id))
    """
    assert chromium.run(broken) == []
    parts = chromium.run("[...document.querySelectorAll('.contents ul ul a')].map(a => a.textContent)")
    assert parts[:3] == ["What was found", "The paper's claims against ours", "Separation and localisation"]
    ids = chromium.run("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    chromium.run("scrollTo(0, document.body.scrollHeight / 2)")
    chromium.run("new Promise(done => setTimeout(done, 300))")
    assert chromium.run("document.querySelector('.contents').getBoundingClientRect().top") == 0  # it stays in sight
    assert chromium.run("document.querySelectorAll('.contents [aria-current]').length") == 1


def test_figures_are_sharp_sized_named_and_captioned(chromium, pages):
    chromium.open(pages["report"], browser.DESKTOP)
    figures = chromium.run("""[...document.querySelectorAll("figure")].map(figure => {
      const image = figure.querySelector("img");
      return {alt: image.alt, svg: image.src.startsWith("data:image/svg+xml"),
              caption: figure.querySelector("figcaption").textContent,
              stretched: (image.width / image.height) / (image.naturalWidth / image.naturalHeight)};
    })""")
    assert len(figures) > 4
    for figure in figures:
        assert figure["svg"]
        assert figure["alt"].startswith("Plot: ")
        assert len(figure["caption"]) > 40
        assert figure["stretched"] == pytest.approx(1, abs=0.03)
