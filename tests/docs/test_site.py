"""The documents as a site: it is built without warnings, reads as on GitHub, and needs no network."""

import collections
import dataclasses
import re
import shutil
import sys
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from markdown_it import MarkdownIt

from shards.config.schema import AssembleConfig
from stylefinetune.config.keys import KEYS
from tests.browser import CHROMIUM, open_browser
from tests.programs import ROOT, run

ELEMENTS = {"h1", "h2", "h3", "h4", "ol", "ul", "li", "pre", "code", "table", "td", "img", "strong", "em", "blockquote"}
PAGES = {"README.md": "index", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}
SOURCES = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in PAGES)]
AXE = "axe.run().then(found => found.violations.map(rule => `${rule.id}: ${rule.nodes[0].html}`))"
OF_MATERIAL = {"aria-dialog-name", "landmark-unique", "scrollable-region-focusable"}  # faults of Material's own parts
GENERATED = re.compile("^<!-- generated: .*$", re.MULTILINE)


def build(project, site):
    config = project / "docs" / "site" / "mkdocs.yml"
    # In a separate process: mkdocs adds loggers and folders of modules to the one that it runs in.
    env = {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1", "COLUMNS": "80"}
    return run(sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", site, env=env)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "built"
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


class Elements(HTMLParser):
    """Counts the elements of the part of a page that comes from Markdown."""

    def __init__(self, html, *, inside=None):
        super().__init__()
        self.counts, self._inside, self._counting = collections.Counter(), inside, inside is None
        self.feed(html)

    def handle_starttag(self, tag, attrs):  # noqa: ARG002 -- the names of the base class
        self._counting |= tag == self._inside
        if self._counting and tag in ELEMENTS:
            self.counts[tag] += 1

    def handle_endtag(self, tag):
        self._counting &= tag != self._inside


@pytest.mark.parametrize(
    "source", [path for path in SOURCES if not GENERATED.search(path.read_text())], ids=lambda p: p.name
)
def test_a_page_has_the_lists_tables_and_code_that_github_shows(site, source):
    text = re.sub(r"^```mermaid\n.*?^```$", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    expected = Elements(MarkdownIt("commonmark").enable("table").render(text))
    html = (site / f"{PAGES.get(source.name, source.stem)}.html").read_text(encoding="utf-8")
    assert Elements(html, inside="article").counts == expected.counts


def test_every_setting_and_command_is_on_the_site(site):
    settings = (site / "configuration.html").read_text(encoding="utf-8")
    keys = [*KEYS, *(field.name for field in dataclasses.fields(AssembleConfig))]
    assert [key for key in keys if f"<td><code>{key}</code></td>" not in settings] == []
    # An item of a list, and the parts of one row: key, type, default, meaning.
    assert "<td><code>lr_mult</code></td>" in settings
    row = re.search(r"<td><code>optim.optimizer</code></td>(.*?)</tr>", settings, re.DOTALL)[1]
    assert re.findall(r"<code>(.*?)</code>", row) == ["caffe_sgd", "sgd", "adamw", "rmsprop", "caffe_sgd"]
    assert "those of torch.optim" in row

    commands = (site / "commands.html").read_text(encoding="utf-8")
    listed = run(sys.executable, "-m", "stylefinetune", "--help").stdout
    names = [f"stylefinetune {line.split()[0]}" for line in listed.splitlines() if re.match(r"  \w+ ", line)]
    assert len(names) > 10
    assert [name for name in names if f"{name}<" not in commands and "completion" not in name] == []
    assert "number of simultaneous downloads from one host" in commands

    functions = re.sub(r"<[^>]*>", "", (site / "api.html").read_text(encoding="utf-8"))
    for text in ("stylefinetune.fine_tune", "open_shards", "what stylefinetune predict takes", "A run that has ended."):
        assert text in functions


def test_a_wrong_link_anchor_or_diagram_fails(tmp_path):
    for name in (*PAGES, "docs", "configs", "tests/golden/README.md", "launch"):
        source, copy = ROOT / name, tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    for page in (tmp_path / "docs").glob("*.md"):
        page.write_text(GENERATED.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")  # would take seconds
    sound = build(tmp_path, tmp_path / "sound")
    assert (sound.returncode, "WARNING" in sound.stderr) == (0, False), sound.stderr

    page = tmp_path / "docs" / "crawl.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(
        f"{text}\n[a](nothing.md) [b](caffe.md#nothing) [c](../configs/nothing.yaml) [d](../README.md#no)\n"
    )
    (tmp_path / "docs" / "forgotten.md").write_text("# A page that is not in the navigation\n")
    done = build(tmp_path, tmp_path / "broken")
    assert done.returncode != 0
    for name in ("nothing.md", "caffe.md#nothing", "configs/nothing.yaml", "index.md#no", "forgotten.md"):
        assert re.search(rf"WARNING.*{re.escape(name)}|  - {name}", done.stderr), (name, done.stderr)

    page.write_text(f"{text}\n```mermaid\nflowchart LR\n    a --> b\n```\n")
    done = build(tmp_path, tmp_path / "broken")
    assert "has changed; run benchmarks/diagrams.py" in done.stderr
    assert done.returncode != 0


def test_the_front_page_and_the_search_work_from_a_folder(site, browser):
    address = (site / "index.html").as_uri()
    browser.show(address, 1280, 900, "light")
    assert browser.evaluate("document.querySelector('article h1').textContent").startswith("stylefinetune")
    search = """(() => {
      const input = document.querySelector("[data-md-component=search-query]");
      input.focus();
      input.value = "simultaneous downloads";
      input.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}));
      return true;
    })()"""
    browser.evaluate(search)
    links = "[...document.querySelectorAll('a.md-search-result__link')].map(link => link.href).join(' ')"
    assert "/crawl_reference.html" in browser.wait(links, bool)
    assert [url for url in browser.requests if not url.startswith(site.as_uri())] == []
    assert browser.messages == []


@pytest.mark.parametrize("page", ["index", "architecture", "configuration", "commands", "api"])
def test_a_page_fits_a_telephone(site, browser, page):
    browser.show((site / f"{page}.html").as_uri(), 360, 740, "light")
    assert browser.evaluate("document.documentElement.scrollWidth") == 360
    assert browser.messages == []


@pytest.mark.parametrize("page", ["index", "architecture"])
def test_a_page_can_be_read_by_everyone(site, browser, page):
    browser.show((site / f"{page}.html").as_uri(), 1280, 900, "light")
    browser.evaluate((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8") + ";0")
    found = browser.evaluate(AXE, wait=True)
    assert [fault for fault in found if fault.split(":")[0] not in OF_MATERIAL] == []


def test_no_page_loads_anything_from_the_web(site):
    loaded = re.compile(r"""<(?:script|img|link|iframe|source)[^>]*(?:src|href)=["']?((?:https?:)?//[^"' >]*)""")
    pages = {page.name: loaded.findall(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert {name: urls for name, urls in pages.items() if urls} == {}
