import base64
import hashlib
import html.parser
import json
import re
import shutil
from importlib.resources import files

import cv2
import numpy as np
import pytest

from shards.__main__ import main
from shards.format.outcomes import STATUS_GROUPS
from shards.report.html import render, write_page
from shards.report.report import read_report
from tests.browser import CHROMIUM, open_browser
from tests.drawn_outcomes import draw_photo, rows_from, write_dir
from tests.loopback import Answer
from tests.programs import ROOT

SCRIPT = "<script>document.title='owned'</script>"
HOSTILE = f"http://h/{SCRIPT}\"onload='x'.jpg"
TEMPLATES = ROOT / "shards" / "report" / "templates"
CSS = (TEMPLATES / "report.css").read_text()
RUNS_CSS = (ROOT / "stylefinetune" / "run_report" / "templates" / "runs.css").read_text()


def lines_of(count):
    return [
        {"image_url": f"http://farm{number % 9}.staticflickr.com/1/{4_000_000_000 + number * 10_000_000}_0a.jpg"}
        | {"split": "test" if number % 5 == 0 else "train", "label": number % 6}
        | {"extra": json.dumps({"owner": f"owner{number % 40}"})}
        for number in range(count)
    ]


CLASSES = ("Noir", "Hazy", "Bokeh", "Bright", "Depth of Field", "Geometric Composition")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("page") / "style_sample"
    sizes = [(240, 360), (360, 240), (300, 300), (200, 500)]
    photos = [draw_photo(number, *sizes[number % 4]) for number in range(12)]
    lines = lines_of(900)
    lines[7] |= {"image_url": HOSTILE}
    lines[8] |= {"image_url": "javascript:document.title='owned'"}
    write_dir(root, rows_from(lines), CLASSES, photos, done_fraction=0.95, sha_of=lambda row: f"{row // 2:064x}")
    return root


@pytest.fixture(scope="module")
def page(root):
    return render(read_report(root, near_duplicates=False))


class Tags(html.parser.HTMLParser):
    """Collects a page's tags, and the attributes that may load or run something."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.handlers, self.scripts = [], [], [], []
        self.feed(page)

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts.append(data)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "srcset", "xlink:href"}]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def text_of(page):
    return re.sub(r"<style>.*?</style>|<script.*?</script>|<[^>]*>", " ", page, flags=re.DOTALL)


def test_of_local_pictures_the_page_speaks_of_files(pixel_shards):
    page = render(read_report(pixel_shards, near_duplicates=False))
    text = text_of(page)
    assert re.search("52 of 52 files gave pictures, packed ", text)
    for word in ("URL", "Link rot", "download", "placeholder"):
        assert word.lower() not in text.lower(), word


def test_the_first_link_leads_past_the_header(page):
    first = Tags(page).links
    assert next(link for link in first if link.startswith("#")) == "#content"
    assert '<main id="content" tabindex="-1">' in page


def test_the_page_loads_no_other_files_and_allows_only_its_own_script(page):
    found = Tags(page)
    assert not {"iframe", "object", "embed"} & set(found.tags)
    assert found.handlers == []
    assert found.tags.count("img") >= 36
    assert {re.match(r"data:|#|http://", link)[0] for link in found.links} == {"data:", "#", "http://"}
    assert "url(" not in CSS
    assert "@import" not in CSS
    counts, script = found.scripts
    assert json.loads(counts)["total"] == 900
    assert script == (TEMPLATES / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:;" in page


def test_outcomes_are_plain_words_without_what_programs_said(tmp_path):
    message = "errorCode=3 404 b'\\xff\\xd8' [ERROR] CUID#7"
    write_dir(tmp_path / "d", rows_from(lines_of(400)), CLASSES, [draw_photo(1)], message=message)
    page = render(read_report(tmp_path / "d", near_duplicates=False))
    for part in (*message.split(), "aria2"):
        assert part not in text_of(page), part
    listed = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)  # which has the names of the statuses
    assert "not_found" not in text_of(listed)
    assert "not found" in text_of(listed)
    assert "the host has nothing at this URL" in text_of(listed)


def rules_of(css):
    """Return the declarations of each selector that is not in a media query."""
    plain = re.sub(r"/\*.*?\*/|@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", css, flags=re.DOTALL)
    return {selector.strip(): body.strip() for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", plain)}


def test_the_page_looks_like_that_of_runs():
    ours, theirs = rules_of(CSS.partition("\n\n")[0]), rules_of(RUNS_CSS)
    assert len(ours) > 15
    assert {selector: theirs.get(selector) for selector in ours} == ours
    dark = re.compile(r"^@media \(prefers-color-scheme: dark\).*$", re.MULTILINE)
    assert dark.search(CSS)[0] == dark.search(RUNS_CSS)[0]


@pytest.mark.parametrize("source", ["url", "class", "folder", "owner", "split"])
def test_text_from_outside_is_escaped(tmp_path, source):
    lines = lines_of(60)
    for line in lines:
        line["image_url"] = HOSTILE if source == "url" else line["image_url"]
        line["extra"] = json.dumps({"owner": SCRIPT}) if source == "owner" else "{}"
        line["label"] = 0
        line["split"] = SCRIPT if source == "split" else line["split"]
    folder = tmp_path / ("<script>" if source == "folder" else "d")
    write_dir(folder, rows_from(lines), (SCRIPT if source == "class" else "x",), [draw_photo(1)], message="lost")
    page = render(read_report(folder, near_duplicates=False))
    assert Tags(page).tags.count("script") == 2  # its own
    assert Tags(page).handlers == []
    assert "&lt;script&gt;" in page  # it is there, as text


def test_urls_that_are_not_http_are_not_linked(tmp_path):
    lines = [{"image_url": f"javascript:document.title={number}"} for number in range(20)]
    write_dir(tmp_path / "d", rows_from(lines), ("x",), [draw_photo(1)])
    page = Tags(render(read_report(tmp_path / "d", near_duplicates=False)))
    assert "img" in page.tags
    assert not [link for link in page.links if link.startswith("javascript")]


def test_equal_folders_give_equal_pages(tmp_path):
    folders = [tmp_path / parent / "d" for parent in "ab"]
    write_dir(folders[0], rows_from(lines_of(120)), CLASSES, [draw_photo(number) for number in range(4)])
    shutil.copytree(*folders)
    pages = [tmp_path / f"{number}.html" for number in range(2)]
    for folder, page in zip(folders, pages, strict=True):
        write_page(read_report(folder, near_duplicates=True), page)
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "0.html", "1.html"}


def test_a_page_of_80_000_rows_and_many_hosts_and_classes_stays_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 144, 192, 3), np.uint8)
    lines = [
        {"image_url": f"http://host{number % 5000}.org/{number}.jpg", "label": number % 2000}
        | {"split": "test" if number % 5 == 0 else "train"}
        for number in range(80_000)
    ]
    names = tuple(f"class {number}" for number in range(2000))
    shas = {"sha_of": lambda row: f"{row // 2:064x}"}
    write_dir(tmp_path / "d", rows_from(lines), names, list(noise), **shas)
    page = render(read_report(tmp_path / "d", near_duplicates=False))
    assert len(page.encode()) < 4_000_000
    assert "4,970 others" in page
    assert "1,940 others" in page


@pytest.mark.parametrize("encode_format", ["pixels", "original"])
def test_an_assembly_becomes_a_page_with_near_duplicates(
    server, write_list, run_assemble, tmp_path, capsys, encode_format
):
    photos = {name: draw_photo(number) for number, name in enumerate("abcdef")}
    photos["copy"] = cv2.resize(photos["a"], (180, 120), interpolation=cv2.INTER_AREA)
    rows = [
        {"image_url": server.add(f"/{name}.png", Answer(cv2.imencode(".png", pixels)[1].tobytes()))}
        | {"label": "noir", "split": "test" if name in {"copy", "b"} else "train"}
        for name, pixels in photos.items()
    ]
    run_assemble(list=write_list(rows), encode_format=encode_format, allow_private=True)
    assert main(["report", str(tmp_path / "out"), "--near_duplicates", "--out", str(tmp_path / "r.html")]) == 0
    assert "look like one of another split: 1 more" in capsys.readouterr().out
    page = (tmp_path / "r.html").read_text()
    assert re.search(r"train, \d+ bits differ", page)
    assert ("256 \u00d7 256" in page) == (encode_format == "pixels")


def test_a_folder_without_kept_pictures_has_a_page(server, write_list, run_assemble, tmp_path):
    run_assemble(list=write_list([{"image_url": server.url + "/gone.jpg", "label": 0, "split": "train"}]))
    page = render(read_report(tmp_path / "out", near_duplicates=True))
    assert "No picture has been kept" in page


GROUPS = [group.key for group in STATUS_GROUPS]


def colours(scheme):
    """Return the style sheet's custom properties in light or dark."""
    blocks = re.findall(r"^(@media[^{]*dark[^{]*\{ )?:root \{(.*?)\}", CSS, re.MULTILINE)
    chosen = [properties for is_dark, properties in blocks if scheme == "dark" or not is_dark]
    return dict(re.findall(r"--(\w+): #(\w{6})", " ".join(chosen)))


def luminance(colour):
    channels = [int(colour[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_bars_have_the_contrast_that_wcag_requires(scheme):
    found = colours(scheme)
    bounds = dict.fromkeys(("text", "link"), 4.5) | dict.fromkeys((*GROUPS, "before"), 3.0)
    for name, bound in bounds.items():
        for ground in ("soft", "page"):
            lighter, darker = sorted((luminance(found[name]), luminance(found[ground])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= bound, (name, ground)


MEASURE = """(() => {
  const width = (each) => each.getBoundingClientRect().width;
  const wide = [...document.querySelectorAll("body *")].filter(
    (each) => !each.closest(".scroll") && each.getBoundingClientRect().right > innerWidth + 1);
  return {
    title: document.title, width: innerWidth, scroll: document.documentElement.scrollWidth, wide: wide.length,
    images: document.images.length,
    bars: [...document.querySelectorAll("svg.bar rect")].filter((each) => width(each) > 1).length,
  };
})()"""
AXE = "axe.run().then(found => found.violations.map(rule => `${rule.id}: ${rule.nodes[0].html}`))"
SHOWN = "[...document.querySelectorAll('#browse .pictures li, #browse tbody tr')].filter(each => !each.hidden)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def url(page, server):
    return server.add("/report.html", Answer(page.encode(), headers={"Content-Type": "text/html; charset=utf-8"}))


def find_faults(browser):
    browser.evaluate((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8") + ";0")
    return browser.evaluate(AXE, wait=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(url, browser, width, scheme):
    browser.show(url, width, 2000, scheme)
    browser.evaluate("for (const image of document.images) image.loading = 'eager'")
    browser.wait("[...document.images].every(image => image.naturalWidth)", bool)

    measured = browser.evaluate(MEASURE)
    assert measured["title"].startswith("style_sample: outcomes of 900 URLs")
    assert measured["width"] == width
    assert measured["scroll"] == width
    assert measured["wide"] == 0
    assert measured["images"] >= 36
    assert measured["bars"] > 60
    assert browser.messages == []
    assert browser.requests == [url]

    pixels = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert pixels.shape[:2] == (2000, width)
    found = colours(scheme)
    assert "#" + "".join(f"{value:02x}" for value in pixels[2, 2]) == "#" + found["page"]
    for name in GROUPS:
        colour = [int(found[name][start : start + 2], 16) for start in (0, 2, 4)]
        assert (pixels == colour).all(-1).sum() > 100, f"no bar in the colour of {name}"
    assert find_faults(browser) == []


def press(browser, key, code):
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_filters_choose_rows_and_announce_their_number(root, url, browser):
    browser.show(url, 1280, 2000, "light")
    said = "document.querySelector('#browse [role=status]').textContent"
    report = read_report(root, near_duplicates=False)
    assert browser.evaluate(said).startswith(f"900 of 900 URLs: {report.overall.kept} kept (")
    for name, table, choice in (
        ("class", report.by_label, 2),
        ("host", report.by_host, 3),
        ("split", report.by_split, 1),
    ):
        browser.evaluate(f"document.querySelector('[data-filter={name}]').focus()")
        for _ in range(choice):
            press(browser, "ArrowDown", 40)
        expected = table[choice - 1]
        assert browser.evaluate(said).startswith(f"{expected.total} of 900 URLs: {expected.kept} kept ("), name
        assert browser.evaluate(f"{SHOWN}.length") > 0
        assert browser.evaluate(f"{SHOWN}.every(each => each.dataset.{name} === '{choice}')")
        browser.evaluate("document.querySelector('#browse .filter').reset()")
        browser.wait(said, lambda text: text.startswith("900 of 900 URLs"))

    outcome = browser.evaluate("[...document.querySelectorAll('[data-filter=outcome] option')].map(each => each.text)")
    browser.evaluate(
        f"const chosen = document.querySelector('[data-filter=outcome]'); chosen.value = {outcome.index('not found')};"
        "chosen.dispatchEvent(new Event('change', {bubbles: true}));"
    )
    count = report.overall.statuses["not_found"]
    expected = f"{count} of 900 URLs: {count} lost (100.0 %). Shown below: pictures: 0, URLs without a picture: 25."
    assert browser.evaluate(said) == expected
    assert set(browser.evaluate(f"{SHOWN}.map(each => each.querySelector('th').textContent)")) == {"not found"}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_a_picture_is_enlarged_and_escape_returns_to_it(url, browser):
    browser.show(url, 360, 800, "dark")
    third = "document.querySelectorAll('#browse .enlarge')[2]"
    browser.evaluate(f"{third}.focus()")
    press(browser, "Enter", 13)
    assert browser.evaluate("document.querySelector('dialog').open")
    shown, facts = (
        browser.evaluate("document.querySelector('dialog').innerText"),
        browser.evaluate(f"({{...{third}.dataset}})"),
    )
    for name in ("key", "label", "split", "size", "source"):
        assert facts[name] in shown
    assert browser.evaluate("document.querySelector('dialog a').href") == facts["source"]
    assert browser.evaluate(f"document.querySelector('dialog img').src === {third}.querySelector('img').src")
    assert browser.evaluate("document.querySelector('dialog').getBoundingClientRect().right") <= 360
    assert find_faults(browser) == []
    press(browser, "Escape", 27)
    assert not browser.evaluate("document.querySelector('dialog').open")
    assert browser.evaluate(f"document.activeElement === {third}")
