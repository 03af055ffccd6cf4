import time

import pytest

from shards.config.schema import AssembleConfig
from shards.download.downloader import Downloader, DownloadResult
from shards.download.host_queue import Request

SPEED = 10  # of the clock that most tests use


def fast_clock() -> float:
    return SPEED * time.monotonic()


@pytest.fixture
def download(tmp_path):
    """Download URLs, row by row, with a separate daemon and by default a fast clock and no limits on time."""

    def run(*urls: str, clock=fast_clock, **settings) -> list[DownloadResult]:
        defaults = {"list": "x", "out": tmp_path, "timeout": 60, "deadline": 10**6, "attempts": 1}
        results: list[DownloadResult] = []
        deadline = time.monotonic() + 60
        with Downloader(AssembleConfig(**defaults | settings), tmp_path, clock) as downloader:
            downloader.add(Request(row, url, tmp_path / "bodies") for row, url in enumerate(urls))
            while downloader.is_busy:
                assert time.monotonic() < deadline
                results += downloader.poll(0.02)
        assert sorted(result.row for result in results) == list(range(len(urls)))
        return sorted(results, key=lambda result: result.row)

    return run
