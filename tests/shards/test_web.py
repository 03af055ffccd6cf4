"""Correct and broken answers of a real server, and their outcomes: only good pictures are kept."""

import collections
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console

from shards.assembly.assemble import assemble
from shards.config.schema import AssembleConfig
from shards.download.downloader import Downloader
from shards.format.index import ShardIndex
from tests import odd_pictures
from tests.assembly import outcomes_by_row
from tests.loopback import Answer, LoopbackServer, redirect
from tests.odd_pictures import encode, smooth

MAX_BYTES = 600_000
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="60"/>'


def jpg(name: str) -> bytes:
    """Draw a JPEG that is different for each name."""
    return encode(".jpg", smooth(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")))


def refusal(status: int, **headers: str) -> Answer:
    return Answer(b"no", status, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the list, with a separate server.

    Attributes:
        name: name of the case and of its path.
        status: expected status.
        answers: the server's answers in turn; a function is called with the server.
        format: expected format of the body; None if no body is received.
        attempts: expected number of attempts; None for any.
        size: expected width and height of a kept picture.
        columns: additional columns of the list.
        is_timed: whether the case waits for a timeout.
    """

    name: str
    status: str
    answers: list[Answer | Callable[[LoopbackServer], Answer]]
    format: str | None = None
    attempts: int | None = None
    size: tuple[int, int] = (90, 60)
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    is_timed: bool = False


def kept(name: str, *answers, body: bytes | None = None, format: str = "jpg", **fields) -> Case:  # noqa: A002
    return Case(name, "kept", [*answers, Answer(body or jpg(name))], format, **fields)


def bad(name: str, status: str, body: bytes, format: str | None = None, **answer) -> Case:  # noqa: A002
    return Case(name, status, [Answer(body, **answer)], format)


def to_another_host(scheme: str, host: str) -> Callable[[LoopbackServer], Answer]:
    """Redirect to the same server by another host name."""
    return lambda server: redirect(f"{scheme}://{host}:{server.url.rpartition(':')[2]}/end.jpg")


BIG = jpg("longer")
ANSWERS = [
    Case("401", "forbidden", [refusal(401)], attempts=1),
    Case("403", "forbidden", [refusal(403)], attempts=1),
    Case("404", "not_found", [refusal(404)], attempts=1),
    Case("407 without a proxy", "forbidden", [refusal(407)], attempts=1),
    Case("410", "gone", [refusal(410)], attempts=1),
    Case("418", "http_error", [refusal(418)], attempts=1),
    Case("429 always", "rate_limited", [refusal(429)], attempts=2),
    Case("429 always with Retry-After", "rate_limited", [refusal(429, Retry_After="1")], attempts=2),
    kept("429 once", refusal(429), attempts=2),
    kept("429 once with Retry-After", refusal(429, Retry_After="1"), attempts=2),
    Case("500 always", "server_error", [refusal(500)], attempts=2),
    kept("500 once", refusal(500), attempts=2),
    Case("503 always", "server_error", [refusal(503)], attempts=2),
    kept("503 once", refusal(503, Retry_After="1"), attempts=2),
    Case("302 without Location", "http_error", [refusal(302)], attempts=1),
    Case("reset", "incomplete", [Answer(jpg("reset"), transfer="reset")], attempts=2),
    kept("reset once", Answer(jpg("x"), transfer="reset"), attempts=2),
    Case("shorter than announced", "incomplete", [Answer(jpg("short"), transfer="truncated")], attempts=2),
    Case("longer than announced", "kept", [Answer(BIG, transfer="overlong")], "jpg"),
    bad("announced as less", "corrupt", BIG, "jpg", headers={"Content-Length": str(len(BIG) // 2)}),
    Case("chunked", "kept", [Answer(jpg("chunked"), transfer="chunked")], "jpg"),
    Case("without a length", "kept", [Answer(jpg("no length"), transfer="no_length")], "jpg"),
    Case("gzip", "kept", [Answer(gzip.compress(jpg("gzip"), mtime=0), headers={"Content-Encoding": "gzip"})], "jpg"),
    bad("unannounced gzip", "bad_encoding", gzip.compress(jpg("secret"), mtime=0)),
    # The first half of the body is so long that it is never too slow before aria2's timeout.
    Case("stall", "timeout", [Answer(jpg("stall") + bytes(400_000), transfer="stall")], attempts=2, is_timed=True),
    Case("slow", "too_slow", [Answer(jpg("slow"), transfer="slow")], attempts=2, is_timed=True),
    bad("empty", "not_an_image", b""),
    Case("endless", "too_large", [Answer(b"\xff\xd8\xff" + bytes(50_000), transfer="endless")], attempts=1),
    bad("announced as too much", "too_large", jpg("huge") + bytes(MAX_BYTES)),
]
REDIRECTS = [
    Case("301 followed", "kept", [redirect("/end.jpg", 301)], "jpg"),
    Case("302 followed", "kept", [lambda server: redirect(f"{server.url}/end.jpg")], "jpg"),
    Case("308 followed", "kept", [redirect("/end.jpg", 308)], "jpg"),
    Case("loop", "too_many_redirects", [redirect("/loop")], attempts=1),
    Case("to file:", "redirect_refused", [redirect("file:///etc/hostname")], attempts=1),
    Case("to nothing", "redirect_refused", [redirect("")], attempts=1),
    # aria2 waits for an FTP greeting.
    Case("to ftp:", "redirect_refused", [to_another_host("ftp", "127.0.0.1")], attempts=1, is_timed=True),
    Case("to sftp:", "redirect_refused", [to_another_host("sftp", "127.0.0.1")], attempts=1),
    Case("to loopback by name", "redirect_refused", [to_another_host("http", "localhost")], attempts=1),
    Case("to loopback in decimal", "redirect_refused", [to_another_host("http", "2130706433")], attempts=1),
    Case("to loopback in short", "redirect_refused", [to_another_host("http", "127.1")], attempts=1),
    Case("to loopback in IPv6", "redirect_refused", [to_another_host("http", "[::1]")], attempts=1),
    Case("to the placeholder", "placeholder", [redirect("/photo_unavailable_l.png")], "png"),
]
BODIES = [
    bad("html", "not_an_image", HTML),
    bad("svg", "not_an_image", SVG),
    bad("truncated", "corrupt", jpg("truncated")[:-200], "jpg"),
    *(
        kept(f"{kind} bytes", body=encode(f".{kind}", smooth(number)), format=kind)
        for number, kind in enumerate(("png", "gif", "webp", "bmp"))
    ),
    kept("grey", body=encode(".jpg", smooth(10)[:, :, 0])),
    kept("CMYK", body=odd_pictures.cmyk_jpg()),
    kept("16-bit", body=encode(".png", smooth(11).astype("uint16") * 257), format="png"),
    kept("palette", body=odd_pictures.palette_png(), format="png", size=(40, 30)),
    kept("animated GIF", body=odd_pictures.animation(".gif"), format="gif", size=(64, 40)),
    kept("animated WebP", body=odd_pictures.animation(".webp"), format="webp", size=(64, 40)),
    *(
        kept(
            f"orientation {value}",
            body=odd_pictures.with_orientation(jpg(f"orientation {value}"), value),
            size=(90, 60) if value < 5 else (60, 90),
        )
        for value in range(1, 9)
    ),
    bad("1x1", "too_small", encode(".png", smooth(12, 1, 1)), "png"),
    bad("bomb", "too_many_pixels", odd_pictures.bomb(), "png"),
]
HEADERS = [
    bad("noai", "noai", jpg("noai"), headers={"X-Robots-Tag": "noai, noimageai"}),
    bad("noindex", "noai", jpg("noindex"), headers={"x-robots-tag": "otherbot: all, *: noindex"}),
    Case("other robots", "kept", [Answer(jpg("other"), headers={"X-Robots-Tag": "otherbot: noai"})], "jpg"),
    kept("right hash", columns={"sha256": hashlib.sha256(jpg("right hash")).hexdigest()}),
    dataclasses.replace(kept("wrong hash"), status="hash_mismatch", columns={"sha256": "0" * 64}),
    dataclasses.replace(kept("wrong md5"), status="hash_mismatch", columns={"md5": "0" * 32}),
]
CASES = {case.name: case for case in [*ANSWERS, *REDIRECTS, *BODIES, *HEADERS]}


@dataclasses.dataclass(frozen=True)
class Crawl:
    """The outcome of each case by name, and for each kept one its picture and its row of the index."""

    outcomes: dict[str, dict]
    pictures: dict[str, bytes]
    entries: dict[str, dict]


def run_crawl(folder: Path, cases: list[Case], **settings) -> Crawl:
    """Assemble all cases together, each from a separate port, so that no case's back-off delays another.

    The downloader's clock runs eight times as fast as the real one; aria2's timeout does not.
    """
    out = folder / "out"
    rows = []
    with contextlib.ExitStack() as stack:
        for case in cases:
            server = stack.enter_context(LoopbackServer())
            server.add("/end.jpg", Answer(jpg(case.name)))
            server.add("/photo_unavailable_l.png", Answer(encode(".png", smooth(99))))
            answers = [answer(server) if callable(answer) else answer for answer in case.answers]
            url = server.add(f"/{case.name.replace(' ', '_').replace(':', '')}", *answers)
            rows.append({"image_url": url, "label": 0, "split": "train", "sha256": "", "md5": ""} | case.columns)
        (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        fast_downloader = functools.partial(Downloader, clock=lambda: 8 * time.monotonic())
        stack.enter_context(mock.patch("shards.assembly.assemble.Downloader", fast_downloader))
        fixed = {"list": str(folder / "list.jsonl"), "out": out, "workers": 2, "attempts": 2, "max_bytes": MAX_BYTES}
        assemble(AssembleConfig(**fixed, connections=len(rows), **settings), Console(file=io.StringIO()))
    names = [case.name for case in cases]
    index = ShardIndex.load(out)
    entries = {names[entry["row"]]: entry for entry in index.table.to_pylist()}
    pictures = {}
    for name, entry in entries.items():
        with (out / entry["shard"]).open("rb") as tar:
            tar.seek(entry["offset"])
            pictures[name] = tar.read(entry["length"])
    return Crawl({names[row]: outcome for row, outcome in outcomes_by_row(out).items()}, pictures, entries)


@pytest.fixture(scope="module")
def crawl(tmp_path_factory) -> Crawl:
    """The results of all cases."""
    timed = [case for case in CASES.values() if case.is_timed]
    others = [case for case in CASES.values() if not case.is_timed]
    # A timeout that no machine is too slow for, and one that is short enough to wait for.
    crawls = [run_crawl(tmp_path_factory.mktemp("web"), others, timeout=60, deadline=3600)]
    crawls.append(run_crawl(tmp_path_factory.mktemp("timed"), timed, timeout=2, deadline=3600))
    merged = [dict(collections.ChainMap(*parts)) for parts in zip(*map(dataclasses.astuple, crawls), strict=True)]
    return Crawl(*merged)


@pytest.mark.parametrize("name", CASES)
def test_each_answer_has_its_outcome(crawl, name):
    case, outcome = CASES[name], crawl.outcomes[name]
    assert outcome["status"] == case.status, outcome["message"]
    assert outcome["format"] == case.format
    assert case.attempts in {None, outcome["attempts"]}
    assert bool(outcome["message"]) is (case.status != "kept")
    assert (name in crawl.entries) is (case.status == "kept")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.status == "kept"])
def test_a_kept_picture_has_the_bytes_that_were_sent(crawl, name):
    last = CASES[name].answers[-1]
    body = jpg(name) if callable(last) or 300 <= last.status < 400 else last.body
    body = gzip.decompress(body) if name == "gzip" else body
    assert crawl.pictures[name] == body
    assert (crawl.entries[name]["width"], crawl.entries[name]["height"]) == CASES[name].size
    assert crawl.outcomes[name]["sha256"] == hashlib.sha256(body).hexdigest()


def test_the_final_url_is_the_last_redirects_target(crawl):
    assert crawl.outcomes["302 followed"]["final_url"].endswith("/end.jpg")
    assert crawl.outcomes["to ftp:"]["final_url"].startswith("ftp://127.0.0.1:")
    assert "localhost" in crawl.outcomes["to loopback by name"]["message"]


def test_special_characters_in_urls_and_ids_are_safe(server, draw_jpg, write_list, run_assemble, tmp_path):
    """Each row gets its own picture, and the tar is safe to unpack."""
    paths = {
        "/with space.jpg": "/with%20space.jpg",
        "/ünï/日本.jpg": "/%C3%BCn%C3%AF/%E6%97%A5%E6%9C%AC.jpg",
        "/new\nline.jpg": "/new%0Aline.jpg",
        "/tab\there.jpg": "/tab%09here.jpg",
        "/'single' \"double\".jpg": "/'single'%20%22double%22.jpg",
        "/percent%41.jpg": "/percent%41.jpg",
        "/a/equal.jpg": "/a/equal.jpg",
        "/b/equal.jpg": "/b/equal.jpg",
        "/..%2f..%2fescape.jpg": "/..%2f..%2fescape.jpg",
        "/?x=1&y=<2>": "/?x=1&y=%3C2%3E",
    }
    ids = ["../../up", "/etc/passwd", "a/b", ".", "", "same", "same", "new\nline", "x" * 300, "ключ"]
    rows = []
    for number, ((path, requested), key) in enumerate(zip(paths.items(), ids, strict=True)):
        server.add(requested, Answer(draw_jpg(number)))
        rows.append({"id": key, "image_url": server.url + path, "label": 0, "split": "train"})
    rows.append(rows[6] | {"id": "again"})
    run_assemble(list=write_list(rows))
    outcomes = outcomes_by_row(tmp_path / "out")
    assert {row: line["message"] for row, line in outcomes.items() if line["status"] != "kept"} == {}
    assert [outcomes[row]["sha256"] for row in range(10)] == [
        hashlib.sha256(draw_jpg(number)).hexdigest() for number in range(10)
    ]
    assert {row: line["duplicate_of"] for row, line in outcomes.items() if line["duplicate_of"] is not None} == {10: 6}
    (tar,) = (tmp_path / "out" / "train").glob("*.tar")
    with tarfile.open(tar) as opened:
        names = opened.getnames()
    assert len(set(names)) == len(names) == 3 * 11
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}\.(jpg|cls|json)", name) for name in names)


def test_redirects_to_private_addresses_can_be_allowed(server, draw_jpg, write_list, run_assemble, tmp_path):
    server.add("/end.jpg", Answer(draw_jpg(1)))
    url = server.add("/a.jpg", to_another_host("http", "localhost")(server))
    run_assemble(list=write_list([{"image_url": url, "label": 0}]), allow_private=True)
    outcome = outcomes_by_row(tmp_path / "out")[0]
    assert (outcome["status"], outcome["final_url"]) == ("kept", url.replace("127.0.0.1", "localhost")[:-5] + "end.jpg")


def test_disallowed_directives_can_be_disabled(server, draw_jpg, write_list, run_assemble, tmp_path):
    url = server.add("/a.jpg", Answer(draw_jpg(1), headers={"X-Robots-Tag": "noai"}))
    run_assemble(list=write_list([{"image_url": url, "label": 0}]), disallowed_header_directives=())
    assert outcomes_by_row(tmp_path / "out")[0]["status"] == "kept"
