import re
import shutil
from importlib.resources import files

import pytest

from stylefinetune.evaluate import evaluate
from stylefinetune.run_report.history import read_history
from stylefinetune.run_report.page import render_page
from tests.browser import CHROMIUM, open_browser

AXE = "axe.run().then(found => found.violations.map(rule => `${rule.id}: ${rule.nodes[0].html}`))"


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory):
    """Return the page about an evaluated run and one that isn't evaluated."""
    folder = tmp_path_factory.mktemp("page")
    first, second = folder / "evaluated <b>", folder / "plain"
    for copy in (first, second):
        shutil.copytree(trained, copy, symlinks=True)
    evaluate([str(first), "--workers=0", f"--out={first / 'evaluation'}", "--baselines=train", "--suspects"])
    path = folder / "report.html"
    path.write_text(render_page([read_history(first), read_history(second)]), encoding="utf-8")
    return path


def test_names_are_escaped_and_what_is_missing_is_said(page):
    text = page.read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "The features are the input of fc8_flickr, 32 numbers." in text
    assert re.search(r"\d+ of 11 labels are suspect by confident learning", text)
    assert "plain is not evaluated by class. Do it with <code>stylefinetune evaluate" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_in_a_browser(page, tmp_path):
    # A process: only a browser draws charts, filters pictures and knows whether the page can be read.
    url = page.as_uri()
    with open_browser(tmp_path) as browser:
        for width, scheme in ((1280, "light"), (360, "dark")):
            browser.show(url, width, 3000, scheme)
            charts = browser.wait("document.querySelectorAll('.chart svg').length", lambda count: count >= 8)
            assert charts == browser.evaluate("document.querySelectorAll('.chart').length")
            assert browser.requests == [url]
            assert browser.messages == []
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            browser.evaluate((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8") + ";0")
            assert browser.evaluate(AXE, wait=True) == []
        _check_filter(browser)
        # The rate does not change, so the axis has one value.
        rate = read_history(page.parent / "plain").series("train", "lr")[0][1]
        assert f"{rate:g}" in browser.evaluate(_labels("Learning rate"))


def _labels(title):
    figure = f"[...document.querySelectorAll('figure')].find(figure => figure.innerText.startsWith('{title}'))"
    return f"[...{figure}.querySelectorAll('.role-axis-label text')].map(text => text.textContent)"


def _check_filter(browser):
    shown = "[...document.querySelectorAll('.filter ~ .pictures li:not([hidden])')]"
    cell = browser.evaluate(f"[{shown}[0].dataset.true, {shown}[0].dataset.predicted]")
    label = f"predicted class: {cell[1]}; true class: {cell[0]};"
    browser.evaluate(
        f"document.querySelector('#confusion-1 [aria-label^=\"{label}\"]')"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    chosen = browser.evaluate("[...document.querySelectorAll('select')].map(select => select.value)")
    assert chosen == cell
    assert browser.evaluate(f"{shown}.every(item => item.dataset.true === '{cell[0]}')")
    count = browser.evaluate(f"{shown}.length")
    assert browser.evaluate("document.querySelector('.count').textContent") == f"{count} mistakes of these classes"
