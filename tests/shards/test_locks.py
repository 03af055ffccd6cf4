import subprocess
import sys
from pathlib import Path

import pytest

from shards.index import ShardsError
from shards.locks import exclusive


def test_a_second_process_is_refused_by_the_firsts_name(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from shards.locks import exclusive\n"
        f"with exclusive(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(ShardsError, match=f"process {holder.pid} on "), exclusive(tmp_path):
                pass
        finally:
            holder.kill()
    with exclusive(tmp_path) as work:  # a killed process's lock and files are free
        assert list(work.iterdir()) == []
        assert len(list(work.parent.iterdir())) == 2


def test_nothing_temporary_is_left(tmp_path):
    with exclusive(tmp_path) as work:
        (work / "x").write_text("x")
    assert list(tmp_path.iterdir()) == []
