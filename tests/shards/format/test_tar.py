import hashlib
import io
import itertools
import sys
import tarfile

import pyarrow.parquet as pq
import pytest
import webdataset
from webdataset.writer import TarWriter

from shards.errors import ShardsError
from shards.format.tar import SampleWriter, TarMember, members_of, read_pictures
from tests.programs import ROOT, run

OLD_SHARDS = ROOT / "tests" / "old_formats"
ORIGINALS = OLD_SHARDS / "originals"
SAMPLES = {
    "a": {"jpg": b"picture", "cls": b"3", "json": b"{}"},
    "empty": {"npy": b"", "cls": b"0"},
    "a key of many bytes, é" * 8: {"png": bytes(512), "cls": b"12", "json": b'{"a": 1}' * 99},
}
# Of these samples' tar, as written with tarfile alone before webdataset's TarWriter took over.
SAMPLES_SHA256 = "f83b767da7f1d34972583bdfd17463dd378fffb3973d64be6dc7a3ae24bc53c9"


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "a.tar"
    with path.open("wb") as file, SampleWriter(file) as tar:
        offsets = {key: tar.write(key, members) for key, members in SAMPLES.items()}
    return path, offsets


def test_webdataset_reads_the_samples(written):
    path, _ = written
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list(SAMPLES)
    for sample, members in zip(samples, SAMPLES.values(), strict=True):
        assert {name: sample[name] for name in members} == members


def test_the_offsets_are_those_of_the_bytes(written):
    path, offsets = written
    body = path.read_bytes()
    with tarfile.open(path) as tar:
        expected = {member.name: member.offset_data for member in tar}
    for key, members in SAMPLES.items():
        for extension, member in members.items():
            offset = offsets[key][extension]
            assert offset == expected[f"{key}.{extension}"]
            assert body[offset : offset + len(member)] == member


def test_the_bytes_are_those_written_before_webdataset_was_used(written):
    path, _ = written
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SAMPLES_SHA256


@pytest.mark.parametrize("key", ["k", "k" * 96, "k" * 97, "ké", "0/1"])
def test_the_bytes_are_those_of_webdataset_for_every_name_and_size(key):
    members = [{extension: bytes(size)} for extension in ("cls", "jpeg") for size in (0, 1, 511, 512, 513, 70_000)]
    ours, theirs = io.BytesIO(), io.BytesIO()
    with SampleWriter(ours) as writer:
        for number, member in enumerate(members):
            writer.write(f"{number}{key}", member)
    with TarWriter(theirs, encoder=False, mtime=0, user="", group="") as writer:
        for number, member in enumerate(members):
            writer.write({"__key__": f"{number}{key}"} | member)
    assert ours.getvalue() == theirs.getvalue()


@pytest.mark.parametrize(
    "path", sorted(OLD_SHARDS.glob("*/*/*.tar")), ids=lambda path: str(path.relative_to(OLD_SHARDS))
)
def test_an_old_shard_is_written_again_byte_for_byte_with_the_offsets_of_its_index(path):
    with tarfile.open(path) as tar:
        members = [(*member.name.split("."), tar.extractfile(member).read()) for member in tar]
    again, offsets = io.BytesIO(), {}
    with SampleWriter(again) as writer:
        for key, group in itertools.groupby(members, lambda member: member[0]):
            offsets[key] = writer.write(key, {extension: body for _, extension, body in group})
    assert again.getvalue() == path.read_bytes()
    root = path.parents[1]
    for row in pq.read_table(root / "index.parquet").to_pylist():
        if row["shard"] == str(path.relative_to(root)):
            assert offsets[row["key"]][row["format"]] == row["offset"]


def test_no_user_and_no_time_is_recorded(written):
    path, _ = written
    with tarfile.open(path) as tar:
        assert {(member.uname, member.gname, member.uid, member.gid, member.mtime) for member in tar} == {
            ("", "", 0, 0, 0)
        }


def test_writing_does_not_import_torch_and_lets_others_import_it():
    code = (
        "import io, sys\nimport shards.__main__\nfrom shards.format.tar import SampleWriter\n"
        "with SampleWriter(io.BytesIO()) as tar:\n    tar.write('a', {'jpg': b'x'})\n"
        "assert 'torch' not in sys.modules\nimport torch\nimport webdataset\nassert torch.Tensor\n"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_pictures_come_in_the_order_of_the_members_whatever_their_shard():
    table = pq.read_table(ORIGINALS / "index.parquet")
    members = members_of(table)
    sizes = list(zip(table.column("height").to_pylist(), table.column("width").to_pylist(), strict=True))
    assert len({member.shard for member in members}) > 2
    backwards = [pixels.shape[:2] for pixels in read_pictures(ORIGINALS, reversed(members))]
    assert backwards == sizes[::-1]


def test_a_damaged_picture_is_reported_with_the_command_that_finds_more():
    first = members_of(pq.read_table(ORIGINALS / "index.parquet"))[0]
    with pytest.raises(ShardsError, match=r"test/00000.tar.*shards verify"):
        list(read_pictures(ORIGINALS, [first._replace(length=100)]))


def test_a_missing_shard_is_reported(tmp_path):
    with pytest.raises(ShardsError, match=r"train/7.tar: No such file"):
        list(read_pictures(tmp_path, [TarMember("train/7.tar", 0, 1, "jpg")]))
