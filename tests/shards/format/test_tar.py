import io
import tarfile

import pytest
import webdataset

from shards.format.tar import SampleWriter

SAMPLES = {
    "a": {"jpg": b"picture", "cls": b"3", "json": b"{}"},
    "empty": {"npy": b"", "cls": b"0"},
    "a key of many bytes, é" * 8: {"png": bytes(512), "cls": b"12", "json": b'{"a": 1}' * 99},
}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "a.tar"
    with path.open("wb") as file, SampleWriter(file) as tar:
        places = {key: tar.write(key, members) for key, members in SAMPLES.items()}
    return path, places


def test_stock_webdataset_reads_the_samples(written):
    path, _ = written
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list(SAMPLES)
    for sample, members in zip(samples, SAMPLES.values(), strict=True):
        assert {name: sample[name] for name in members} == members


def test_the_places_are_those_of_the_bytes(written):
    path, places = written
    body = path.read_bytes()
    with tarfile.open(path) as tar:
        told = {member.name: member.offset_data for member in tar}
    for key, members in SAMPLES.items():
        for extension, member in members.items():
            place = places[key][extension]
            assert place == told[f"{key}.{extension}"]
            assert body[place : place + len(member)] == member


def test_the_bytes_are_those_that_webdataset_writes_itself(written):
    path, _ = written
    stock = io.BytesIO()
    with webdataset.TarWriter(stock, encoder=False, mtime=0, user="", group="") as tar:
        for key, members in SAMPLES.items():
            tar.write({"__key__": key} | members)
    assert path.read_bytes() == stock.getvalue()


def test_no_user_and_no_time_is_told(written):
    path, _ = written
    with tarfile.open(path) as tar:
        assert {(member.uname, member.gname, member.uid, member.gid, member.mtime) for member in tar} == {
            ("", "", 0, 0, 0)
        }
