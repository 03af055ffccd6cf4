import pytest

from shards.tracking.crawl_log import CrawlLog


def test_rows_are_read_by_the_next_process_in_order(tmp_path):
    path = tmp_path / "crawl.jsonl"
    log = CrawlLog(path)
    assert log.rows == []
    for number in range(3):
        log.append({"files": number})
    assert CrawlLog(path).rows == [{"files": 0}, {"files": 1}, {"files": 2}] == log.rows


@pytest.mark.parametrize("cut", ['{"fil', '{"files": 4}'])
def test_a_row_that_a_kill_has_cut_off_is_removed(tmp_path, cut):
    path = tmp_path / "crawl.jsonl"
    path.write_text('{"files": 1}\n{"files": 2}\n' + cut)
    log = CrawlLog(path)
    assert log.rows == [{"files": 1}, {"files": 2}]
    log.append({"files": 3})
    assert path.read_text() == '{"files": 1}\n{"files": 2}\n{"files": 3}\n'
