import numpy as np
import pytest
import torch

from stylefinetune.caffe.schema import message_class
from stylefinetune.config.preprocessing import AugmentConfig
from stylefinetune.data.mean import load_mean
from stylefinetune.errors import UserError
from tests.stylefinetune.data.loading import data_config, open_pictures, read_batches
from tests.stylefinetune.data.staging.stores import change, upload


def mean_of(data, size=(48, 48), *, training=True):
    return load_mean(data, data.phase(training=training), size)


def test_the_default_mean_is_the_mean_of_the_training_split(pixel_shards):
    mean = mean_of(data_config(pixel_shards))
    whole = torch.cat([batch.pictures for batch in read_batches(open_pictures(pixel_shards), stop=41)])
    assert mean.shape == (48, 48, 3)
    assert torch.allclose(mean, whole.double().mean(0).float(), atol=1e-4)


def test_mean_values_are_configured_as_bgr_and_returned_as_rgb(pixel_shards):
    assert mean_of(data_config(pixel_shards, mean_value=(104, 117, 123))).flatten().tolist() == [123, 117, 104]
    assert mean_of(data_config(pixel_shards, mean_value=(9,))).flatten().tolist() == [9, 9, 9]


def test_mean_values_of_an_rgb_input_are_configured_as_rgb(pixel_shards):
    values = data_config(pixel_shards, channels="rgb", mean_value=(123, 117, 104))
    assert mean_of(values).flatten().tolist() == [123, 117, 104]


def test_a_mean_picture_does_not_fit_pictures_that_keep_their_shape(pixel_shards):
    with pytest.raises(
        UserError, match=r"data\.resize is shorter_side, but a mean picture fits warped pictures only; "
    ):
        mean_of(data_config(pixel_shards, resize="shorter_side"))
    cut = data_config(pixel_shards, augment=AugmentConfig(random_resized_crop=True))
    with pytest.raises(UserError, match=r"data\.augment cuts or erases pictures, but a mean picture fits"):
        mean_of(cut)
    assert mean_of(cut, training=False).shape == (48, 48, 3)


def test_a_mean_that_a_store_lacks_is_made_from_a_copy(pixel_shards, memory):
    url = upload(pixel_shards, f"{memory}/DIR")
    change(url, "mean.npy", None)
    with pytest.raises(UserError) as caught:
        mean_of(data_config(url))
    assert str(caught.value) == (
        f"{url}/mean.npy: no such mean picture; make it with: shards mean COPY, where COPY is a copy of {url} on a "
        "disk; upload COPY/mean.npy, or set data.mean_value"
    )


def test_an_unusable_mean_file_is_an_error(original_shards, golden, tmp_path):
    missing = data_config(tmp_path)
    with pytest.raises(UserError, match=r"mean\.npy: no such mean picture; make it with: shards mean"):
        mean_of(missing)
    wrong_size = r"is 48x48x3; the pictures \(data\.image_size\) are 64x64x3; .* shards mean .* --image_size 64$"
    with pytest.raises(UserError, match=wrong_size):
        mean_of(data_config(original_shards, image_size=64), (64, 64))
    with pytest.raises(UserError, match=r"are 64x60x3; set data\.image_size to the size of the mean"):
        mean_of(data_config(original_shards, image_size=(64, 60)), (64, 60))
    broken = tmp_path / "broken.npy"
    broken.write_bytes(b"nothing")
    with pytest.raises(UserError, match="can't be read as a mean picture"):
        mean_of(data_config(original_shards, mean_file=str(broken)))
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="can't be read as a mean picture"):
        mean_of(data_config(original_shards, mean_file=str(objects)))
    archive = tmp_path / "archive.npy"
    with archive.open("wb") as file:
        np.savez(file, mean=np.zeros((48, 48, 3)))
    with pytest.raises(UserError, match="can't be read as a mean picture"):
        mean_of(data_config(original_shards, mean_file=str(archive)))
    caffes = mean_of(data_config(original_shards, mean_file=str(golden / "micro" / "mean.binaryproto")), (80, 80))
    assert caffes.shape == (80, 80, 3)


def test_caffes_published_mean_is_found_by_its_name(original_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    named = data_config(original_shards, mean_file="imagenet_mean", image_size=256)
    with pytest.raises(UserError, match=r"run: stylefinetune weights imagenet_mean"):
        mean_of(named, (256, 256))
    blob = message_class("BlobProto")(num=1, channels=3, height=256, width=256, data=range(3 * 256 * 256))
    (tmp_path / "stylefinetune").mkdir()
    (tmp_path / "stylefinetune" / "imagenet_mean.binaryproto").write_bytes(blob.SerializeToString())
    assert mean_of(named, (256, 256))[0, 0].tolist() == [2 * 65536, 65536, 0]


@pytest.mark.parametrize("extra", [0, 1])
def test_caffes_mean_of_channels_rows_and_columns_is_read(original_shards, tmp_path, extra):
    """As ilsvrc_2012_mean.npy: float64[3, H, W], BGR; also with the leading 1 of a blob."""
    caffes = np.arange(3 * 48 * 48, dtype=np.float64).reshape((1,) * extra + (3, 48, 48))
    np.save(tmp_path / "mean.npy", caffes)
    mean = mean_of(data_config(original_shards, mean_file=str(tmp_path / "mean.npy")))
    assert (mean.shape, mean.dtype) == ((48, 48, 3), torch.float32)
    assert mean[1, 2].tolist() == [2 * 2304 + 50, 2304 + 50, 50]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_mean_that_is_not_finite_is_refused(original_shards, tmp_path, value):
    mean = np.zeros((48, 48, 3))
    mean[5, 6, 1] = value
    np.save(tmp_path / "mean.npy", mean)
    with pytest.raises(UserError, match=r"mean\.npy has values that aren't finite"):
        mean_of(data_config(original_shards, mean_file=str(tmp_path / "mean.npy")))


def test_one_value_per_channel_in_a_file_names_the_flag(original_shards, tmp_path):
    np.save(tmp_path / "mean.npy", np.array([104.0, 117, 123]))
    with pytest.raises(UserError, match=r"one value per channel; give the values as --data\.mean_value B,G,R"):
        mean_of(data_config(original_shards, mean_file=str(tmp_path / "mean.npy")))
