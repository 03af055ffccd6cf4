"""Assembling an existing DIR: more images, a grown list, retries, placeholders and duplicates."""

import pytest

from shards.__main__ import main
from shards.errors import ShardsError
from shards.format.index import ShardIndex
from tests.assembly import assert_tidy, serve_pictures, stable_outcomes, statuses, tars_and_index
from tests.loopback import Answer


def take_requests(server) -> list[str]:
    """Return the paths requested since the last call."""
    paths = [request.path for request in server.requests]
    server.requests.clear()
    return sorted(paths)


def hide_all(server, count: int) -> None:
    """Make every picture unavailable, so that kept ones must come from DIR."""
    for number in range(count):
        server.add(f"/{number}.jpg", Answer(status=404))


@pytest.mark.parametrize("encode_format", ["original", "pixels", "jpg"])
def test_adding_images_in_steps_equals_one_assembly(
    server, draw_jpg, write_list, run_assemble, tmp_path, encode_format
):
    path = write_list(serve_pictures(server, draw_jpg, 30))
    settings = {"list": path, "rows_per_shard": 4, "encode_format": encode_format, "image_size": 32}
    run_assemble(**settings, out=tmp_path / "at_once")
    paths_at_once = take_requests(server)
    paths: list[str] = []
    for images in (9, 17, -1):
        run_assemble(**settings, images=images)
        new = take_requests(server)
        assert not set(new) & set(paths)
        paths += new
    assert sorted(paths) == paths_at_once
    assert tars_and_index(tmp_path / "out") == tars_and_index(tmp_path / "at_once")
    assert stable_outcomes(tmp_path / "out") == stable_outcomes(tmp_path / "at_once")
    assert_tidy(tmp_path / "out")


def test_a_grown_list_adds_new_rows_and_keeps_the_others(server, draw_jpg, write_list, run_assemble, tmp_path):
    rows = serve_pictures(server, draw_jpg, 24)
    run_assemble(list=write_list(rows[:14]), rows_per_shard=4)
    out = tmp_path / "out"
    before = {split: list(ShardIndex.load(out).entries(split).key) for split in ("train", "test")}
    complete = {path: path.read_bytes() for path in (out / "train" / "00000.tar", out / "train" / "00001.tar")}
    take_requests(server)
    hide_all(server, 14)
    printed = run_assemble(list=write_list(rows), rows_per_shard=4)
    assert take_requests(server) == sorted(f"/{number}.jpg" for number in range(14, 24))
    assert "14 of 24 were done before" in printed
    assert set(statuses(out).values()) == {"kept"}
    for split, keys in before.items():
        assert list(ShardIndex.load(out).entries(split).key)[: len(keys)] == keys
    assert {path: path.read_bytes() for path in complete} == complete
    assert_tidy(out)


def test_after_a_kill_once_the_order_is_extended_the_index_keeps_its_rows(
    server, draw_jpg, write_list, run_assemble, tmp_path, monkeypatch, capsys
):
    rows = serve_pictures(server, draw_jpg, 14)
    run_assemble(list=write_list(rows[:7]), rows_per_shard=20)

    def interrupt(*_):
        raise KeyboardInterrupt  # works in background processes, which ignore the signal

    with monkeypatch.context() as patched:
        patched.setattr("shards.assembly.assemble._plan_tasks", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_assemble(list=write_list(rows), rows_per_shard=20)
    assert main(["finalize", str(tmp_path / "out")]) == 0
    assert "7 of 14 rows" in capsys.readouterr().out
    assert len(ShardIndex.load(tmp_path / "out").table) == 7
    take_requests(server)
    run_assemble(list=write_list(rows), rows_per_shard=20)
    assert take_requests(server) == sorted(f"/{number}.jpg" for number in range(7, 14))
    assert len(ShardIndex.load(tmp_path / "out").table) == 14


def failing_list(server, draw_jpg, write_list) -> str:
    """Serve 20 pictures, of which 3 and 8 fail temporarily and 5 permanently."""
    rows = serve_pictures(server, draw_jpg, 20)
    for number, status in {3: 500, 8: 500, 5: 404}.items():
        server.add(f"/{number}.jpg", Answer(status=status))
    return write_list(rows)


def restore(server, draw_jpg, *numbers: int) -> None:
    for number in numbers:
        server.add(f"/{number}.jpg", Answer(draw_jpg(number)))


def test_a_retry_requests_failed_rows_and_changes_no_other_tar(server, draw_jpg, write_list, run_assemble, tmp_path):
    out = tmp_path / "out"
    settings = {"list": failing_list(server, draw_jpg, write_list), "rows_per_shard": 4, "attempts": 1}
    run_assemble(**settings)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in out.glob("*/*.tar")}
    take_requests(server)
    hide_all(server, 20)
    restore(server, draw_jpg, 3)
    server.add("/8.jpg", Answer(status=500))
    printed = run_assemble(**settings, retry="passing")
    assert printed.startswith("Downloading 2 images")
    assert take_requests(server) == ["/3.jpg", "/8.jpg"]
    assert statuses(out) == dict.fromkeys(range(20), "kept") | {5: "not_found", 8: "server_error"}
    changed = [
        path for path, (inode, body) in before.items() if (path.stat().st_ino, path.read_bytes()) != (inode, body)
    ]
    assert [str(path.relative_to(out)) for path in changed] == [
        entry["shard"] for entry in ShardIndex.load(out).table.to_pylist() if entry["row"] == 3
    ]
    assert_tidy(out)


def test_after_successful_retries_the_bytes_are_those_of_an_assembly_without_failures(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    settings = {"list": failing_list(server, draw_jpg, write_list), "rows_per_shard": 4, "attempts": 1}
    run_assemble(**settings)
    restore(server, draw_jpg, 3)
    run_assemble(**settings, retry="server_error")
    restore(server, draw_jpg, 5, 8)
    take_requests(server)
    run_assemble(**settings, retry="failed")
    assert take_requests(server) == ["/5.jpg", "/8.jpg"]
    run_assemble(**settings, out=tmp_path / "unfailing")
    assert tars_and_index(tmp_path / "out") == tars_and_index(tmp_path / "unfailing")
    assert stable_outcomes(tmp_path / "out") == stable_outcomes(tmp_path / "unfailing")


def test_a_retry_also_makes_missing_blocks(server, draw_jpg, write_list, run_assemble, tmp_path):
    settings = {"list": failing_list(server, draw_jpg, write_list), "rows_per_shard": 4, "attempts": 1}
    run_assemble(**settings)
    before = tars_and_index(tmp_path / "out")
    (tmp_path / "out" / "test" / "00000.tar").unlink()
    take_requests(server)
    run_assemble(**settings, retry="gone")  # no row has this status
    assert take_requests(server) == ["/0.jpg", "/10.jpg", "/15.jpg", "/5.jpg"]
    assert tars_and_index(tmp_path / "out") == before


def test_an_invalid_status_is_refused_before_anything_is_created(server, write_list, run_assemble, tmp_path):
    path = write_list([{"image_url": f"{server.url}/a.jpg", "label": 0}])
    with pytest.raises(ShardsError, match=r"--retry timeot is not .* timeout"):
        run_assemble(list=path, retry="timeot")
    assert not (tmp_path / "out").exists()


def repeating_list(server, draw_jpg, write_list, *, are_available: bool = True) -> str:
    """Serve 24 pictures; every fourth is the same, and 1, 2 and 3 are the same."""
    rows = serve_pictures(server, draw_jpg, 24)
    for number in range(0, 24, 4):
        server.add(f"/{number}.jpg", Answer(draw_jpg(99)) if are_available else Answer(status=404))
    for number in (1, 2, 3):
        server.add(f"/{number}.jpg", Answer(draw_jpg(98)))
    return write_list(rows)


@pytest.mark.parametrize("encode_format", ["original", "pixels"])
def test_the_same_bytes_under_many_urls_are_a_placeholder(
    server, draw_jpg, write_list, run_assemble, tmp_path, encode_format
):
    out = tmp_path / "out"
    settings = {"rows_per_shard": 5, "encode_format": encode_format, "image_size": 32, "placeholder_urls": 6}
    printed = run_assemble(list=repeating_list(server, draw_jpg, write_list), **settings)
    assert len(take_requests(server)) == 24
    assert any(line.split() == ["placeholder", "6"] for line in printed.splitlines())
    found = statuses(out)
    assert [row for row, status in found.items() if status == "placeholder"] == list(range(0, 24, 4))
    assert set(found.values()) == {"kept", "placeholder"}
    # The shards equal those of a web without these pictures.
    path = repeating_list(server, draw_jpg, write_list, are_available=False)
    run_assemble(list=path, out=tmp_path / "without", **settings)
    assert tars_and_index(out) == tars_and_index(tmp_path / "without")
    assert_tidy(out)


def test_finalize_uses_the_last_given_limit(server, draw_jpg, write_list, run_assemble, tmp_path, capsys):
    path, out = repeating_list(server, draw_jpg, write_list), tmp_path / "out"
    run_assemble(list=path, rows_per_shard=5, placeholder_urls=7)
    take_requests(server)
    assert set(statuses(out).values()) == {"kept"}
    assert main(["finalize", str(out)]) == 0
    assert set(statuses(out).values()) == {"kept"}
    run_assemble(list=path, rows_per_shard=5, placeholder_urls=6)
    found = statuses(out)
    assert list(found.values()).count("placeholder") == 6
    run_assemble(list=path, rows_per_shard=5, placeholder_urls=0)
    assert statuses(out) == found  # the bytes are no longer stored
    assert take_requests(server) == []
    run_assemble(list=path, rows_per_shard=5, placeholder_urls=0, retry="placeholder")
    assert len(take_requests(server)) == 6
    assert set(statuses(out).values()) == {"kept"}
    capsys.readouterr()


def test_duplicates_are_dropped_without_downloads(server, draw_jpg, write_list, run_assemble, tmp_path):
    path, out = repeating_list(server, draw_jpg, write_list), tmp_path / "out"
    run_assemble(list=path, rows_per_shard=5)
    take_requests(server)
    hide_all(server, 24)
    run_assemble(list=path, rows_per_shard=5, drop_duplicates=True)
    assert take_requests(server) == []
    duplicates = dict.fromkeys((4, 8, 12, 16, 20, 2, 3), "duplicate")
    assert statuses(out) == dict.fromkeys(range(24), "kept") | duplicates
    assert {row["row"]: row["duplicate_of"] for row in stable_outcomes(out) if row["duplicate_of"] is not None} == {
        4: 0, 8: 0, 12: 0, 16: 0, 20: 0, 2: 1, 3: 1
    }  # fmt: skip
    repeating_list(server, draw_jpg, write_list)
    run_assemble(list=path, rows_per_shard=5, drop_duplicates=True, out=tmp_path / "at_once")
    assert tars_and_index(out) == tars_and_index(tmp_path / "at_once")
    assert stable_outcomes(out) == stable_outcomes(tmp_path / "at_once")
    assert_tidy(out)


def test_equal_local_files_are_no_placeholder(draw_jpg, run_assemble, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(draw_jpg(0))
    (tmp_path / "train.txt").write_text("".join(f"{tmp_path}/{number}.jpg 0\n" for number in range(3)))
    run_assemble(list=f"train={tmp_path / 'train.txt'}", placeholder_urls=2)
    assert set(statuses(tmp_path / "out").values()) == {"kept"}
