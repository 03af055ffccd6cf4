import pytest

from stylefinetune.config.data import DataConfig
from stylefinetune.tracking.data_wait import DISPLAYS, DataWaitWarning


def warnings(config, waits):
    warning = DataWaitWarning(config)
    return [warning.check(wait) for wait in waits]


def test_it_warns_once_after_some_displays_in_a_row():
    short, long = 0.05, 0.3
    found = warnings(DataConfig(), [long] * (DISPLAYS - 1) + [short] + [long] * 3 * DISPLAYS)
    assert [place for place, line in enumerate(found) if line] == [2 * DISPLAYS - 1]
    assert found[2 * DISPLAYS - 1] == (
        "Training waits for pictures 30% of the time: decoding or reading is too slow; raise data.workers (now 2 per "
        "rank) if there are idle CPU cores, store smaller pictures (shards repack), or, on a network file system, copy "
        "the shards to local disks (data.stage_dir)"
    )


@pytest.mark.parametrize(
    ("config", "has", "lacks"),
    [
        (DataConfig(workers=0), "it decodes them itself; raise data.workers (now 0)", "repack"),
        (DataConfig(stage_dir="/local"), "store smaller pictures (shards repack)", "stage_dir"),
    ],
)
def test_the_remedy_fits_the_settings(config, has, lacks):
    line = warnings(config, [0.5] * DISPLAYS)[-1]
    assert has in line
    assert lacks not in line
