"""The number of open blocks in the pipeline, and their independence."""

from pathlib import Path

import pytest

from shards.__main__ import main
from shards.assembly import pipeline
from shards.storage.remote import RemoteShardDir
from tests.assembly import outcomes_by_row, serve_pictures
from tests.loopback import Answer
from tests.stores import names_of


def test_a_slow_block_does_not_stop_the_next(server, draw_jpg, write_list, run_assemble, tmp_path):
    rows = serve_pictures(server, draw_jpg, 20)
    server.add("/0.jpg", Answer(draw_jpg(0), after_requests=20))  # answered once all others have been requested
    run_assemble(list=write_list(rows), rows_per_shard=2, per_host=2, timeout=20)
    assert outcomes_by_row(tmp_path / "out")[0]["attempts"] == 1


@pytest.fixture
def tars(monkeypatch):
    """Numbers of tars in the stage, before each upload and after each fetch."""
    counts: list[int] = []

    def watch(name):
        real = getattr(RemoteShardDir, name)

        def watched(self, block):
            if name == "fetch_tar":
                real(self, block)
            counts.append(len(list(self._root.glob("*/*.tar"))))
            if name != "fetch_tar":
                real(self, block)

        monkeypatch.setattr(RemoteShardDir, name, watched)

    watch("put_block")
    watch("fetch_tar")
    return counts


def test_the_stage_has_no_more_tars_than_open_blocks(
    server, draw_jpg, write_list, run_assemble, memory, monkeypatch, tars
):
    monkeypatch.setattr(pipeline, "_OPEN_ROWS", 8)
    path, url = write_list(serve_pictures(server, draw_jpg, 60)), f"{memory}/x"
    for number in range(0, 60, 3):
        server.add(f"/{number}.jpg", Answer(status=404))
    run_assemble(list=path, out=Path(url), rows_per_shard=4, drop_duplicates=True)
    assert len([name for name in names_of(url) if name.endswith(".tar")]) == 15
    assert len(tars) == 15
    assert max(tars) <= 2
    for number in range(0, 60, 3):
        server.add(f"/{number}.jpg", Answer(draw_jpg(number)))
    tars.clear()
    run_assemble(list=path, out=Path(url), rows_per_shard=4, retry="failed")
    assert len(tars) >= 20
    assert max(tars) <= 2
    assert main(["verify", url]) == 0
