"""The same DIR, assembled again: more images, a list that has grown, rows that failed, equal bodies."""

import pytest

from shards.__main__ import main
from shards.errors import ShardsError
from shards.format.index import ShardIndex
from tests.assembly import assert_tidy, serve_pictures, stable_outcomes, statuses, tars_and_index
from tests.loopback import Answer


def asked(server) -> list[str]:
    """Returns what was asked for since the last call."""
    paths = [seen.path for seen in server.requests]
    server.requests.clear()
    return sorted(paths)


def hide_all(server, count: int) -> None:
    """Takes every picture off the web: what is kept must not depend on it any more."""
    for number in range(count):
        server.add(f"/{number}.jpg", Answer(status=404))


@pytest.mark.parametrize("encode_format", ["original", "pixels", "jpg"])
def test_more_images_make_what_all_at_once_would_have_made(
    server, draw_jpg, write_list, run_assemble, tmp_path, encode_format
):
    path = write_list(serve_pictures(server, draw_jpg, 30))
    settings = {"list": path, "rows_per_shard": 4, "encode_format": encode_format, "image_size": 32}
    run_assemble(**settings, out=tmp_path / "once")
    once = asked(server)
    told: list[str] = []
    for images in (9, 17, -1):
        run_assemble(**settings, images=images)
        new = asked(server)
        assert not set(new) & set(told)
        told += new
    assert sorted(told) == once
    assert tars_and_index(tmp_path / "out") == tars_and_index(tmp_path / "once")
    assert stable_outcomes(tmp_path / "out") == stable_outcomes(tmp_path / "once")
    assert_tidy(tmp_path / "out")


def test_a_list_that_has_grown_adds_what_is_new_and_keeps_what_it_had(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    rows = serve_pictures(server, draw_jpg, 24)
    run_assemble(list=write_list(rows[:14]), rows_per_shard=4)
    out = tmp_path / "out"
    before = {split: ShardIndex.load(out).entries(split).key for split in ("train", "test")}
    whole = {path: path.read_bytes() for path in (out / "train" / "00000.tar", out / "train" / "00001.tar")}
    asked(server)
    hide_all(server, 14)
    told = run_assemble(list=write_list(rows), rows_per_shard=4)
    assert asked(server) == sorted(f"/{number}.jpg" for number in range(14, 24))
    assert "14 of 24 were done before" in told
    assert set(statuses(out).values()) == {"kept"}
    for split, keys in before.items():
        assert ShardIndex.load(out).entries(split).key[: len(keys)] == keys
    assert {path: path.read_bytes() for path in whole} == whole
    assert_tidy(out)


def test_killed_once_the_order_was_extended_all_that_was_kept_is_still_in_the_index(
    server, draw_jpg, write_list, run_assemble, tmp_path, monkeypatch, capsys
):
    rows = serve_pictures(server, draw_jpg, 14)
    run_assemble(list=write_list(rows[:7]), rows_per_shard=20)

    def interrupt(*_):
        raise KeyboardInterrupt  # a signal would be ignored where the tests run in the background

    with monkeypatch.context() as patched:
        patched.setattr("shards.assembly.assemble._plan_tasks", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_assemble(list=write_list(rows), rows_per_shard=20)
    assert main(["finalize", str(tmp_path / "out")]) == 0
    assert "7 of 14 rows" in capsys.readouterr().out
    assert len(ShardIndex.load(tmp_path / "out").table) == 7
    asked(server)
    run_assemble(list=write_list(rows), rows_per_shard=20)
    assert asked(server) == sorted(f"/{number}.jpg" for number in range(7, 14))
    assert len(ShardIndex.load(tmp_path / "out").table) == 14


def failing_list(server, draw_jpg, write_list) -> str:
    """Serves 20 pictures, of which 3 and 8 fail for a passing reason and 5 for a stable_outcomes one."""
    rows = serve_pictures(server, draw_jpg, 20)
    for number, status in {3: 500, 8: 500, 5: 404}.items():
        server.add(f"/{number}.jpg", Answer(status=status))
    return write_list(rows)


def heal(server, draw_jpg, *numbers: int) -> None:
    for number in numbers:
        server.add(f"/{number}.jpg", Answer(draw_jpg(number)))


def test_a_retry_asks_for_what_failed_and_touches_no_other_tar(server, draw_jpg, write_list, run_assemble, tmp_path):
    out = tmp_path / "out"
    settings = {"list": failing_list(server, draw_jpg, write_list), "rows_per_shard": 4, "attempts": 1}
    run_assemble(**settings)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in out.glob("*/*.tar")}
    asked(server)
    hide_all(server, 20)
    heal(server, draw_jpg, 3)
    server.add("/8.jpg", Answer(status=500))
    told = run_assemble(**settings, retry="passing")
    assert told.startswith("Downloading 2 images")
    assert asked(server) == ["/3.jpg", "/8.jpg"]
    assert statuses(out) == dict.fromkeys(range(20), "kept") | {5: "not_found", 8: "server_error"}
    touched = [
        path for path, (inode, body) in before.items() if (path.stat().st_ino, path.read_bytes()) != (inode, body)
    ]
    assert [str(path.relative_to(out)) for path in touched] == [
        entry["shard"] for entry in ShardIndex.load(out).table.to_pylist() if entry["row"] == 3
    ]
    assert_tidy(out)


def test_retried_until_all_came_the_bytes_are_those_of_a_web_that_never_failed(
    server, draw_jpg, write_list, run_assemble, tmp_path
):
    settings = {"list": failing_list(server, draw_jpg, write_list), "rows_per_shard": 4, "attempts": 1}
    run_assemble(**settings)
    heal(server, draw_jpg, 3)
    run_assemble(**settings, retry="server_error")
    heal(server, draw_jpg, 5, 8)
    asked(server)
    run_assemble(**settings, retry="failed")
    assert asked(server) == ["/5.jpg", "/8.jpg"]
    run_assemble(**settings, out=tmp_path / "unfailing")
    assert tars_and_index(tmp_path / "out") == tars_and_index(tmp_path / "unfailing")
    assert stable_outcomes(tmp_path / "out") == stable_outcomes(tmp_path / "unfailing")


def test_a_retry_does_the_missing_blocks_too(server, draw_jpg, write_list, run_assemble, tmp_path):
    settings = {"list": failing_list(server, draw_jpg, write_list), "rows_per_shard": 4, "attempts": 1}
    run_assemble(**settings)
    before = tars_and_index(tmp_path / "out")
    (tmp_path / "out" / "test" / "00000.tar").unlink()
    asked(server)
    run_assemble(**settings, retry="gone")  # which none is
    assert asked(server) == ["/0.jpg", "/10.jpg", "/15.jpg", "/5.jpg"]
    assert tars_and_index(tmp_path / "out") == before


def test_a_status_that_is_none_is_refused_before_anything_is_made(server, write_list, run_assemble, tmp_path):
    path = write_list([{"image_url": f"{server.url}/a.jpg", "label": 0}])
    with pytest.raises(ShardsError, match=r"--retry timeot: .* timeout"):
        run_assemble(list=path, retry="timeot")
    assert not (tmp_path / "out").exists()


def repeating_list(server, draw_jpg, write_list, *, are_there: bool = True) -> str:
    """Serves 24 pictures, of which every fourth is one and the same, and 1, 2 and 3 are another."""
    rows = serve_pictures(server, draw_jpg, 24)
    for number in range(0, 24, 4):
        server.add(f"/{number}.jpg", Answer(draw_jpg(99)) if are_there else Answer(status=404))
    for number in (1, 2, 3):
        server.add(f"/{number}.jpg", Answer(draw_jpg(98)))
    return write_list(rows)


@pytest.mark.parametrize("encode_format", ["original", "pixels"])
def test_the_same_bytes_under_many_urls_are_a_placeholder(
    server, draw_jpg, write_list, run_assemble, tmp_path, encode_format
):
    out = tmp_path / "out"
    settings = {"rows_per_shard": 5, "encode_format": encode_format, "image_size": 32, "placeholder_urls": 6}
    told = run_assemble(list=repeating_list(server, draw_jpg, write_list), **settings)
    assert len(asked(server)) == 24
    assert any(line.split() == ["placeholder", "6"] for line in told.splitlines())
    found = statuses(out)
    assert [row for row, status in found.items() if status == "placeholder"] == list(range(0, 24, 4))
    assert set(found.values()) == {"kept", "placeholder"}
    # The shards are those of a web where these pictures never were.
    path = repeating_list(server, draw_jpg, write_list, are_there=False)
    run_assemble(list=path, out=tmp_path / "without", **settings)
    assert tars_and_index(out) == tars_and_index(tmp_path / "without")
    assert_tidy(out)


def test_the_limit_that_was_given_last_holds_for_finalize_too(
    server, draw_jpg, write_list, run_assemble, tmp_path, capsys
):
    path, out = repeating_list(server, draw_jpg, write_list), tmp_path / "out"
    run_assemble(list=path, rows_per_shard=5, placeholder_urls=7)
    asked(server)
    assert set(statuses(out).values()) == {"kept"}
    assert main(["finalize", str(out)]) == 0
    assert set(statuses(out).values()) == {"kept"}
    run_assemble(list=path, rows_per_shard=5, placeholder_urls=6)
    judged = statuses(out)
    assert list(judged.values()).count("placeholder") == 6
    run_assemble(list=path, rows_per_shard=5, placeholder_urls=0)
    assert statuses(out) == judged  # their bytes aren't there any more
    assert asked(server) == []
    run_assemble(list=path, rows_per_shard=5, placeholder_urls=0, retry="placeholder")
    assert len(asked(server)) == 6
    assert set(statuses(out).values()) == {"kept"}
    capsys.readouterr()


def test_duplicates_are_dropped_on_demand_without_the_web(server, draw_jpg, write_list, run_assemble, tmp_path):
    path, out = repeating_list(server, draw_jpg, write_list), tmp_path / "out"
    run_assemble(list=path, rows_per_shard=5)
    asked(server)
    hide_all(server, 24)
    run_assemble(list=path, rows_per_shard=5, drop_duplicates=True)
    assert asked(server) == []
    doubles = dict.fromkeys((4, 8, 12, 16, 20, 2, 3), "duplicate")
    assert statuses(out) == dict.fromkeys(range(24), "kept") | doubles
    assert {row["row"]: row["duplicate_of"] for row in stable_outcomes(out) if row["duplicate_of"] is not None} == {
        4: 0, 8: 0, 12: 0, 16: 0, 20: 0, 2: 1, 3: 1
    }  # fmt: skip
    repeating_list(server, draw_jpg, write_list)
    run_assemble(list=path, rows_per_shard=5, drop_duplicates=True, out=tmp_path / "once")
    assert tars_and_index(out) == tars_and_index(tmp_path / "once")
    assert stable_outcomes(out) == stable_outcomes(tmp_path / "once")
    assert_tidy(out)


def test_equal_files_of_ones_own_are_no_placeholder(draw_jpg, run_assemble, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(draw_jpg(0))
    (tmp_path / "train.txt").write_text("".join(f"{tmp_path}/{number}.jpg 0\n" for number in range(3)))
    run_assemble(list=f"train={tmp_path / 'train.txt'}", placeholder_urls=2)
    assert set(statuses(tmp_path / "out").values()) == {"kept"}
