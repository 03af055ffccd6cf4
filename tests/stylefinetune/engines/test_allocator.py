import sys

import pytest

from tests.programs import ROOT, run

# Counts the page faults of blocks of 64 MB, 16,384 pages each, that are freed before the next one.
COUNT_FAULTS = """
import resource
from stylefinetune.engines.allocator import keep_freed_memory
if not keep_freed_memory():
    raise SystemExit(77)
bytearray(64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again_without_page_faults():
    ended = run(sys.executable, "-c", COUNT_FAULTS, cwd=ROOT)
    if ended.returncode == 77:
        pytest.skip("the C library is not glibc")
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 1000
