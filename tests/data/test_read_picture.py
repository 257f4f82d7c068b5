"""Pictures of every depth and colour become floats (channels, rows, columns) in [0, 1]."""

from __future__ import annotations

import numpy as np
import pytest
from monai.data import Dataset
from monai.transforms import LoadImaged
from pictures import blobs, save
from PIL import Image

from metalr_monai.data.read_picture import PictureReader, load_picture, read_picture
from metalr_monai.errors import DataError, OptionError

GREY = blobs(0, (6, 9))  # rows, columns
DEEP = GREY.astype(np.uint16) * np.uint16(250) + np.arange(9, dtype=np.uint16)
COLOUR = np.stack([blobs(n, (6, 9)) for n in range(3)], axis=-1)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_keeps_its_values_rows_and_columns(tmp_path, suffix, channels):
    array = read_picture(save(tmp_path / f"a.{suffix}", GREY), channels)
    assert (array.dtype, array.shape) == (np.float32, (channels, 6, 9))
    np.testing.assert_array_equal(array, np.repeat(GREY[None] / np.float32(255), channels, axis=0))


def test_colour_keeps_its_values_and_becomes_grey_by_luma(tmp_path):
    path = save(tmp_path / "a.png", COLOUR)
    np.testing.assert_array_equal(read_picture(path, 3), COLOUR.transpose(2, 0, 1) / np.float32(255))
    luma = COLOUR @ [0.299, 0.587, 0.114] / 255
    assert np.abs(read_picture(path)[0] - luma).max() <= 0.5 / 255 + 1e-4


def test_sixteen_bits_keep_their_depth(tmp_path):
    array = read_picture(save(tmp_path / "a.png", DEEP), 3)
    np.testing.assert_array_equal(array, np.repeat((DEEP / 65535).astype(np.float32)[None], 3, axis=0))
    assert len(np.unique(array * 255 % 1)) > 2


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("P", "png"), ("CMYK", "jpg"), ("1", "png")]
)
def test_other_modes_are_converted(tmp_path, mode, suffix):
    path = save(tmp_path / f"a.{suffix}", COLOUR, mode)
    with Image.open(path) as stored:
        assert stored.mode == mode
        expected = np.asarray(stored.convert("RGB")).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(read_picture(path, 3), expected)


def test_what_is_transparent_is_black(tmp_path):
    alpha = np.full((6, 9), 255, np.uint8)
    alpha[:, :4] = 0
    path = save(tmp_path / "a.png", np.dstack([np.full((6, 9, 3), 200, np.uint8), alpha]))
    assert read_picture(path, 3)[:, :, :4].max() == 0
    assert read_picture(path)[0, :, 4:] == pytest.approx(200 / 255)


def test_the_first_frame_of_several_and_the_upright_picture_are_read(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    np.testing.assert_array_equal(read_picture(tmp_path / "a.gif")[0], GREY / np.float32(255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png")[0], np.rot90(GREY, -1) / np.float32(255))


def test_monai_loads_and_collates_it_with_rows_before_columns(tmp_path):
    path = str(save(tmp_path / "a.png", COLOUR))
    (item,) = Dataset([{"image": path, "label": 1}], load_picture("image", channels=3))
    assert tuple(item["image"].shape) == (3, 6, 9)
    np.testing.assert_array_equal(item["image"].numpy(), read_picture(path, 3))
    assert item["image"].meta["filename_or_obj"] == path
    named = LoadImaged("image", reader=PictureReader(3), ensure_channel_first=True)({"image": path})
    assert tuple(named["image"].shape) == (3, 6, 9)


@pytest.mark.parametrize("content", [b"", b"no picture", None, "half"])
def test_what_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / "a.png"
    if content == "half":
        whole = save(path, blobs(1)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content is not None:
        path.write_bytes(content)
    for load in (read_picture, lambda p: load_picture()({"image": str(p)})):
        with pytest.raises(DataError, match=r"a\.png cannot be read as a picture"):
            load(path)


def test_pictures_of_unknown_range_and_odd_channels_are_refused(tmp_path):
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff: .*floating point"):
        read_picture(tmp_path / "a.tiff")
    Image.fromarray(GREY.astype(np.int32) - 300).save(tmp_path / "b.tiff")
    with pytest.raises(DataError, match="expected 8 or 16 bits"):
        read_picture(tmp_path / "b.tiff")
    for make in (lambda: PictureReader(2), lambda: read_picture(save(tmp_path / "c.png", 1), 4)):
        with pytest.raises(OptionError, match="expected 1"):
            make()
