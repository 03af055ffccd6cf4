import html.parser
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from shards.__main__ import main
from shards.report.counts import STATUS_GROUPS
from shards.report.html import render, write_page
from shards.report.report import read_report
from tests.browser import CHROMIUM, open_browser
from tests.drawn_outcomes import draw_photo, rows_from, write_dir
from tests.loopback import Answer
from tests.programs import ROOT

SCRIPT = "<script>document.title='owned'</script>"
HOSTILE = f"http://h/{SCRIPT}\"onload='x'.jpg"
CSS = (ROOT / "shards" / "report" / "templates" / "report.css").read_text()


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


class Tags(html.parser.HTMLParser):
    """Collects a page's tags, and the attributes that may load or run something."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.handlers = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "srcset", "xlink:href"}]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_of_local_pictures_the_page_speaks_of_files(pixel_shards):
    page = render(read_report(pixel_shards, near_duplicates=False))
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert re.search("52 of 52 files gave pictures, packed ", text)
    for word in ("URL", "Link rot", "download", "placeholder"):
        assert word.lower() not in text.lower(), word


def test_the_first_link_leads_past_the_header(root):
    page = render(read_report(root, near_duplicates=False))
    first = Tags(page).links
    assert next(link for link in first if link.startswith("#")) == "#main"
    assert '<main id="main" tabindex="-1">' in page


def test_the_page_loads_no_other_files_and_runs_no_scripts(root):
    page = Tags(render(read_report(root, near_duplicates=False)))
    assert not {"script", "iframe", "object", "embed"} & set(page.tags)
    assert page.handlers == []
    assert page.tags.count("img") >= 36
    assert {re.match(r"data:|#|http://", link)[0] for link in page.links} == {"data:", "#", "http://"}
    assert "url(" not in CSS
    assert "@import" not in CSS


@pytest.mark.parametrize("source", ["url", "class", "message", "folder", "owner"])
def test_text_from_outside_is_escaped(tmp_path, source):
    lines = lines_of(60)
    for line in lines:
        line["image_url"] = HOSTILE if source == "url" else line["image_url"]
        line["extra"] = json.dumps({"owner": SCRIPT}) if source == "owner" else "{}"
        line["label"] = 0
    folder = tmp_path / ("<script>" if source == "folder" else "d")
    message = SCRIPT if source == "message" else "lost"
    write_dir(folder, rows_from(lines), (SCRIPT if source == "class" else "x",), [draw_photo(1)], message=message)
    page = render(read_report(folder, near_duplicates=False))
    assert "script" not in Tags(page).tags
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
    assert len(page.encode()) < 3_000_000
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
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    return dict(re.findall(r"--(\w+): #(\w{6})", blocks[0])) | (
        dict(re.findall(r"--(\w+): #(\w{6})", blocks[1])) if scheme == "dark" else {}
    )


def luminance(colour):
    channels = [int(colour[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_bars_have_the_contrast_that_wcag_requires(scheme):
    found = colours(scheme)
    bounds = dict.fromkeys(("text", "muted", "link"), 4.5) | dict.fromkeys((*GROUPS, "before"), 3.0)
    for name, bound in bounds.items():
        for ground in ("card", "page"):
            lighter, darker = sorted((luminance(found[name]), luminance(found[ground])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= bound, (name, ground)


MEASURE = """(() => {
  const width = (each) => each.getBoundingClientRect().width;
  const wide = [...document.querySelectorAll("body *")].filter(
    (each) => !each.closest(".scroll") && each.getBoundingClientRect().right > innerWidth + 1);
  return {
    title: document.title, width: innerWidth, scroll: document.documentElement.scrollWidth, wide: wide.length,
    broken: [...document.images].filter((each) => !each.naturalWidth).length, images: document.images.length,
    bars: [...document.querySelectorAll("svg.bar rect")].filter((each) => width(each) > 1).length,
  };
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser(root, server, browser, width, scheme):
    page = render(read_report(root, near_duplicates=False)).encode()
    url = server.add("/report.html", Answer(page, headers={"Content-Type": "text/html; charset=utf-8"}))
    browser.show(url, width, 2000, scheme)

    measured = browser.evaluate(MEASURE)
    assert measured["title"].startswith("style_sample: outcomes of 900 URLs")
    assert measured["width"] == width
    assert measured["scroll"] == width
    assert measured["wide"] == 0
    assert (measured["broken"], measured["images"] >= 36) == (0, True)
    assert measured["bars"] > 60
    assert browser.messages == []
    assert browser.requests == [url]

    pixels = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert pixels.shape[:2] == (2000, width)
    found = colours(scheme)
    assert "#" + "".join(f"{value:02x}" for value in pixels[2, 2]) == "#" + found["page"]
    for name in GROUPS:
        colour = [int(found[name][start : start + 2], 16) for start in (0, 2, 4)]
        assert (pixels == colour).all(-1).sum() > 200, f"no bar in the colour of {name}"
