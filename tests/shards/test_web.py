"""The web's lies, each from a real server to the ledger: good pictures are kept, bad ones never, each by its name."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable

import pytest
from rich.console import Console

from shards.assembly.assemble import assemble
from shards.config.schema import AssembleConfig
from shards.format.index import ShardIndex
from tests import odd_pictures
from tests.assembly import outcomes_by_row
from tests.loopback import Answer, LoopbackServer, redirect
from tests.odd_pictures import encode, smooth

MAX_BYTES = 600_000
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="60"/>'


def jpg(name: str) -> bytes:
    """Draws a JPEG that no other name has."""
    return encode(".jpg", smooth(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")))


def refusal(status: int, **headers: str) -> Answer:
    return Answer(b"no", status, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the list, on a host (a port) of its own.

    Attributes:
        name: of the case, and of its path.
        status: that it must come to.
        answers: what the server answers in turn; a function is given the server.
        format: that must be told of the body; None where no body is judged.
        attempts: that it must take, where that isn't the machine's to say.
        size: width and height that the index must have of a kept picture.
        columns: further ones of the list.
    """

    name: str
    status: str
    answers: list[Answer | Callable[[LoopbackServer], Answer]]
    format: str | None = None
    attempts: int | None = None
    size: tuple[int, int] = (90, 60)
    columns: dict[str, str] = dataclasses.field(default_factory=dict)


def kept(name: str, *answers, body: bytes | None = None, format: str = "jpg", **fields) -> Case:  # noqa: A002
    return Case(name, "kept", [*answers, Answer(body or jpg(name))], format, **fields)


def bad(name: str, status: str, body: bytes, format: str | None = None, **answer) -> Case:  # noqa: A002
    return Case(name, status, [Answer(body, **answer)], format)


def to_another_host(scheme: str, host: str) -> Callable[[LoopbackServer], Answer]:
    """Redirects to this very server by another name of its."""
    return lambda server: redirect(f"{scheme}://{host}:{server.url.rpartition(':')[2]}/end.jpg")


BIG = jpg("longer")
ANSWERS = [
    Case("401", "forbidden", [refusal(401)], attempts=1),
    Case("403", "forbidden", [refusal(403)], attempts=1),
    Case("404", "not_found", [refusal(404)], attempts=1),
    Case("407 without a proxy", "forbidden", [refusal(407)], attempts=1),
    Case("410", "gone", [refusal(410)], attempts=1),
    Case("418", "http_error", [refusal(418)], attempts=1),
    Case("429 for ever", "rate_limited", [refusal(429)], attempts=2),
    Case("429 for ever with Retry-After", "rate_limited", [refusal(429, Retry_After="1")], attempts=2),
    kept("429 that heals", refusal(429), attempts=2),
    kept("429 that heals with Retry-After", refusal(429, Retry_After="1"), attempts=2),
    Case("500 for ever", "server_error", [refusal(500)], attempts=2),
    kept("500 that heals", refusal(500), attempts=2),
    Case("503 for ever", "server_error", [refusal(503)], attempts=2),
    kept("503 that heals", refusal(503, Retry_After="1"), attempts=2),
    Case("302 without Location", "http_error", [refusal(302)], attempts=1),
    Case("reset", "incomplete", [Answer(jpg("reset"), transfer="reset")], attempts=2),
    kept("reset that heals", Answer(jpg("x"), transfer="reset"), attempts=2),
    Case("shorter than announced", "incomplete", [Answer(jpg("short"), transfer="truncated")], attempts=2),
    Case("longer than announced", "kept", [Answer(BIG, transfer="overlong")], "jpg"),
    bad("announced as less", "corrupt", BIG, "jpg", headers={"Content-Length": str(len(BIG) // 2)}),
    Case("chunked", "kept", [Answer(jpg("chunked"), transfer="chunked")], "jpg"),
    Case("of a length not told", "kept", [Answer(jpg("untold"), transfer="no_length")], "jpg"),
    Case("gzip", "kept", [Answer(gzip.compress(jpg("gzip"), mtime=0), headers={"Content-Encoding": "gzip"})], "jpg"),
    bad("gzip in secret", "bad_encoding", gzip.compress(jpg("secret"), mtime=0)),
    Case("stall", "timeout", [Answer(jpg("stall"), transfer="stall")], attempts=2),
    Case("drip", "too_slow", [Answer(jpg("drip"), transfer="slow", interval=1.0)], attempts=2),
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
    Case("to ftp:", "redirect_refused", [to_another_host("ftp", "127.0.0.1")], attempts=1),
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
        kept(f"{kind} bytes", body=encode(f".{kind}", smooth(place)), format=kind)
        for place, kind in enumerate(("png", "gif", "webp", "bmp"))
    ),
    kept("grey", body=encode(".jpg", smooth(10)[:, :, 0])),
    kept("CMYK", body=odd_pictures.cmyk_jpg()),
    kept("16-bit", body=encode(".png", smooth(11).astype("uint16") * 257), format="png"),
    kept("palette", body=odd_pictures.palette_png(), format="png", size=(40, 30)),
    kept("animated GIF", body=odd_pictures.animation(".gif"), format="gif", size=(64, 40)),
    kept("animated WebP", body=odd_pictures.animation(".webp"), format="webp", size=(64, 40)),
    *(
        kept(
            f"orientation {place}",
            body=odd_pictures.with_orientation(jpg(f"orientation {place}"), place),
            size=(90, 60) if place < 5 else (60, 90),
        )
        for place in range(1, 9)
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
    """What became of the cases, by name, and of those that were kept, the pictures and their rows of the index."""

    outcomes: dict[str, dict]
    pictures: dict[str, bytes]
    entries: dict[str, dict]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory) -> Crawl:
    """All cases in one assembly; each on a port of its own, so that none holds back another."""
    folder = tmp_path_factory.mktemp("web")
    out = folder / "out"
    rows = []
    with contextlib.ExitStack() as stack:
        for case in CASES.values():
            server = stack.enter_context(LoopbackServer())
            server.add("/end.jpg", Answer(jpg(case.name)))
            server.add("/photo_unavailable_l.png", Answer(encode(".png", smooth(99))))
            answers = [answer(server) if callable(answer) else answer for answer in case.answers]
            url = server.add(f"/{case.name.replace(' ', '_').replace(':', '')}", *answers)
            rows.append({"image_url": url, "label": 0, "split": "train", "sha256": "", "md5": ""} | case.columns)
        (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = AssembleConfig(
            list=str(folder / "list.jsonl"),
            out=out,
            workers=2,
            timeout=5,
            attempts=2,
            connections=len(rows),
            max_bytes=MAX_BYTES,
        )
        assemble(config, Console(file=io.StringIO()))
    names = list(CASES)
    entries = {names[entry["row"]]: entry for entry in ShardIndex.load(out).table.to_pylist()}
    pictures = {}
    for name, entry in entries.items():
        with (out / entry["shard"]).open("rb") as tar:
            tar.seek(entry["offset"])
            pictures[name] = tar.read(entry["length"])
    return Crawl({names[row]: line for row, line in outcomes_by_row(out).items()}, pictures, entries)


@pytest.mark.parametrize("name", CASES)
def test_each_answer_comes_to_what_it_is(crawl, name):
    case, outcome = CASES[name], crawl.outcomes[name]
    assert outcome["status"] == case.status, outcome["message"]
    assert outcome["format"] == case.format
    assert case.attempts in {None, outcome["attempts"]}
    assert bool(outcome["message"]) is (case.status != "kept")
    assert (name in crawl.entries) is (case.status == "kept")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.status == "kept"])
def test_what_is_kept_is_the_picture_that_was_sent(crawl, name):
    last = CASES[name].answers[-1]
    body = jpg(name) if callable(last) or 300 <= last.status < 400 else last.body
    body = gzip.decompress(body) if name == "gzip" else body
    assert crawl.pictures[name] == body
    assert (crawl.entries[name]["width"], crawl.entries[name]["height"]) == CASES[name].size
    assert crawl.outcomes[name]["sha256"] == hashlib.sha256(body).hexdigest()


def test_the_final_url_is_where_the_redirects_led(crawl):
    assert crawl.outcomes["302 followed"]["final_url"].endswith("/end.jpg")
    assert crawl.outcomes["to ftp:"]["final_url"].startswith("ftp://127.0.0.1:")
    assert "localhost" in crawl.outcomes["to loopback by name"]["message"]


def test_what_the_list_calls_a_picture_decides_nothing(server, draw_jpg, write_list, run_assemble, tmp_path):
    """URLs and ids of every sort, of which each stands for a picture of its own, in one tar that is safe to unpack."""
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
    for number, ((path, asked), key) in enumerate(zip(paths.items(), ids, strict=True)):
        server.add(asked, Answer(draw_jpg(number)))
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


def test_private_addresses_may_be_allowed(server, draw_jpg, write_list, run_assemble, tmp_path):
    server.add("/end.jpg", Answer(draw_jpg(1)))
    url = server.add("/a.jpg", to_another_host("http", "localhost")(server))
    run_assemble(list=write_list([{"image_url": url, "label": 0}]), allow_private=True)
    outcome = outcomes_by_row(tmp_path / "out")[0]
    assert (outcome["status"], outcome["final_url"]) == ("kept", url.replace("127.0.0.1", "localhost")[:-5] + "end.jpg")


def test_a_ban_may_be_overruled(server, draw_jpg, write_list, run_assemble, tmp_path):
    url = server.add("/a.jpg", Answer(draw_jpg(1), headers={"X-Robots-Tag": "noai"}))
    run_assemble(list=write_list([{"image_url": url, "label": 0}]), disallowed_header_directives=())
    assert outcomes_by_row(tmp_path / "out")[0]["status"] == "kept"
