import collections
import contextlib
import csv
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

from launch import sample
from launch.pictures import draw
from launch.sample import LinkState
from shards.url_list.flickr_style import FLICKR_STYLE_CLASSES
from tests.programs import ROOT


def get(url):
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60)


def first_of(state):
    return next(index for index in range(97) if sample.link_state(index) is state)


@pytest.fixture
def server():
    with sample.serve(100) as server:
        yield server


@pytest.fixture
def photo(server):
    return lambda index: f"{server.url}/photos/{index:05d}.jpg"


def test_style_names_are_those_of_the_data_side():
    assert sample.style_names == FLICKR_STYLE_CLASSES


def test_forty_pictures_have_every_link_state_and_most_are_alive():
    assert {sample.link_state(index) for index in range(40)} == set(LinkState)
    alive = sum(sample.link_state(index) in {LinkState.ALIVE, LinkState.RECOVERS} for index in range(970))
    assert alive / 970 == pytest.approx(0.94, abs=0.01)


def test_labels_and_splits_are_balanced():
    pairs = collections.Counter((sample.split_of(index), sample.label_of(index)) for index in range(1000))
    assert set(pairs.values()) == {40, 10}
    assert all(pairs["train", label] == 40 and pairs["test", label] == 10 for label in range(20))


@pytest.mark.parametrize("index", [0, 3, 99])
def test_a_link_that_is_alive_is_the_drawn_picture(photo, index):
    with get(photo(index)) as response:
        body = response.read()
        assert response.headers["Content-Type"] == "image/jpeg"
    assert body == sample.encode(draw(index % 20, sample.SEED + index))
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    drawn = draw(index % 20, sample.SEED + index)
    assert np.abs(decoded.astype(int) - drawn).mean() < 6, "JPEG keeps the picture and the channel order"


@pytest.mark.parametrize(("state", "status"), [(LinkState.MISSING, 404), (LinkState.GONE, 410)])
def test_a_dead_link_stays_dead(photo, state, status):
    for _ in range(2):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(photo(first_of(state)))
        assert caught.value.code == status


def test_an_unavailable_photo_redirects_to_the_placeholder(server, photo):
    with get(photo(first_of(LinkState.UNAVAILABLE))) as response:
        assert response.url == server.url + "/photo_unavailable.png"
        assert response.read().startswith(b"\x89PNG")


def test_a_500_recovers(server, photo):
    index = first_of(LinkState.RECOVERS)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        get(photo(index))
    with get(photo(index)) as response:
        assert response.status == 200
    assert server.requests[f"/photos/{index:05d}.jpg"] == 2


def test_a_web_page_under_a_pictures_name(photo):
    with get(photo(first_of(LinkState.HTML))) as response:
        assert response.read().startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize("path", ["/photos/00100.jpg", "/photos/x.jpg", "/", "/../sample.py"])
def test_an_unknown_path_is_a_404(server, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(server.url + path)


def test_it_listens_on_loopback_only(server):
    assert server.server_address[0] == "127.0.0.1"


def test_the_list_has_the_official_lists_columns(server, tmp_path):
    sample.write_list(tmp_path / "sub" / "sample.csv", 100, server.url)
    with (tmp_path / "sub" / "sample.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["", "image_url", "page_url", "label", "_split"]
    assert len(rows) == 100
    assert len({row[""] for row in rows}) == 100
    with get(rows[42]["page_url"]) as response:
        assert sample.style_names[int(rows[42]["label"])] in response.read().decode()
    with get(rows[42]["image_url"]) as response:
        assert response.status == 200


@contextlib.contextmanager
def command(*arguments, **options):
    """Run `python -m launch.sample`; yield the process and the line that it prints when it serves."""
    program = [sys.executable, "-m", "launch.sample", *map(str, arguments)]
    process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process, process.stdout.readline()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal_stops_it(tmp_path, stop):
    with command("--out", tmp_path, "--images", 30) as (process, line):
        address = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        with get(f"{address}/photos/00001.jpg") as response:
            assert response.status == 200
        process.send_signal(stop)
        assert process.wait(60) == 0
    assert f"{address}/photos/00029.jpg" in (tmp_path / "sample.csv").read_text()


def test_a_second_run_takes_the_same_port_and_does_not_write_the_list_again(tmp_path):
    seen = []
    for _ in range(2):
        with command("--out", tmp_path, "--images", 30) as (process, line):
            seen.append((line, (tmp_path / "sample.csv").stat().st_mtime_ns))
            process.terminate()
            process.wait(60)
    assert seen[0] == seen[1]


def test_if_the_port_is_taken_the_list_has_another(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sample.write_list(tmp_path / "sample.csv", 30, f"http://127.0.0.1:{port}")
        with command("--out", tmp_path, "--images", 30) as (_, line):
            assert line.startswith("Serving 30 pictures")
            assert f":{port}/" not in (tmp_path / "sample.csv").read_text()


def test_the_command_ends_with_its_parent(tmp_path):
    script = '"$0" -m launch.sample --out "$1" --images 30 & read -r -t 120'
    parent = subprocess.Popen(
        ["bash", "-c", script, sys.executable, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    port = int(re.search(r":(\d+),", parent.stdout.readline())[1])
    parent.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and _listens(port):
        time.sleep(0.1)
    assert not _listens(port)


def _listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_mistakes_are_one_line(tmp_path):
    for arguments in (["--images", "0"], ["--out", "/proc/no/such/folder"]):
        program = [sys.executable, "-m", "launch.sample", "--out", str(tmp_path), *arguments]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
