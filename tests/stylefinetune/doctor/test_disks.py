import sys

from stylefinetune.doctor.disks import check_folder
from tests.programs import run

WITH_LIMIT = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from stylefinetune.doctor.disks import check_folder
print(check_folder(Path(sys.argv[1])))
"""


def test_a_folder_is_measured_and_left_empty(tmp_path):
    finding = check_folder(tmp_path, enough=0)
    assert finding.level in {"ok", "warning"}  # the disk may be slow
    assert "MB/s" in finding.found
    assert list(tmp_path.iterdir()) == []
    assert check_folder(tmp_path, measure=False, enough=0).level == "ok"
    assert "MB/s" not in check_folder(tmp_path, measure=False).found


def test_little_room_is_a_warning_and_none_fails(tmp_path):
    finding = check_folder(tmp_path, measure=False, enough=1e20)
    assert finding.level == "warning"
    assert "checkpoint.keep_last" in finding.remedy


def test_a_folder_that_is_missing_or_cannot_be_written_fails(tmp_path):
    assert check_folder(tmp_path / "none").level == "failed"
    done = run(sys.executable, "-c", WITH_LIMIT, tmp_path)  # of its own, since the limit can't be raised again
    assert done.stdout.startswith("failed"), done.stderr
    assert "can't be written: File too large; name a folder of your own" in done.stdout
