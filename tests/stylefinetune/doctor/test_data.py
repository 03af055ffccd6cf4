import shutil

import fsspec

from stylefinetune.doctor.data import check_config, check_shards


def test_shards_with_all_their_tars_are_fine(pixel_shards, tmp_path):
    finding = check_shards(str(pixel_shards))
    assert finding.level == "ok"
    assert "11 test, 41 train pictures, 4 classes" in finding.found
    shutil.copytree(pixel_shards, tmp_path / "copy")
    next((tmp_path / "copy" / "train").glob("*.tar")).write_bytes(b"")
    finding = check_shards(str(tmp_path / "copy"))
    assert (finding.level, "is shorter than the index says" in finding.found) == ("failed", True)
    assert check_shards(str(tmp_path / "none")).level == "failed"


def test_a_store_needs_an_index(memory):
    finding = check_shards(memory)
    assert (finding.level, finding.found) == ("failed", f"{memory} has no index.parquet")
    with fsspec.open(f"{memory}/index.parquet", "wb") as file:
        file.write(b"x" * 2_000_000)
    assert (check_shards(memory).level, check_shards(memory).found) == ("ok", f"{memory}: index.parquet of 2.0 MB")


def test_a_store_that_does_not_answer_fails(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    finding = check_shards("s3://bucket/dir")
    assert finding.level == "failed"
    assert finding.remedy == "check the endpoint and the credentials"


def test_a_config_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {arch: resnet18}\n")
    assert check_config(tmp_path / "a.yaml").level == "ok"
    (tmp_path / "a.yaml").write_text("lr: 0.1\n")
    finding = check_config(tmp_path / "a.yaml")
    assert finding.level == "failed"
    assert "did you mean optim.base_lr?" in finding.found
