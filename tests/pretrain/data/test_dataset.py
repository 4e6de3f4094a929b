"""The two-view data set: a pure function of its key, with sane views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.dataset import KeyedSampler, SampleKey, TwoViewImages
from pretrain.data.images import UndecodableImageError, decode_image, list_images
from pretrain.data.views import TwoViews

VIEWS = dict(size=32)


def test_a_sample_depends_on_its_key_alone(image_folder):
    """Whatever the generator's state, cache or order: same key, same views; another epoch, other views."""
    plain, cached = TwoViewImages(image_folder, VIEWS), TwoViewImages(image_folder, VIEWS, cache=True)
    torch.manual_seed(1)
    first = plain[SampleKey(0, 3, 5)]["views"]
    torch.manual_seed(2)
    cached[SampleKey(0, 3, 4)]
    assert torch.equal(first, cached[SampleKey(0, 3, 5)]["views"])
    assert not torch.equal(first, plain[SampleKey(0, 4, 5)]["views"])
    assert not torch.equal(first, plain[SampleKey(1, 3, 5)]["views"])
    assert first.shape == (2, 3, 32, 32)
    assert first.dtype == torch.uint8
    assert not torch.equal(first[0], first[1])


def test_the_sampler_shuffles_each_epoch_anew(image_folder):
    """Every image once an epoch, in another order each epoch, and the same order for the same seed."""
    dataset = TwoViewImages(image_folder, VIEWS)
    orders = []
    for epoch in (0, 1, 0):
        sampler = KeyedSampler(dataset, seed=7)
        sampler.set_epoch(epoch)
        orders.append([key.index for key in sampler])
        assert all((key.seed, key.epoch) == (7, epoch) for key in sampler)
    assert sorted(orders[0]) == list(range(8))
    assert orders[0] == orders[2] != orders[1]


def test_undecodable_images_are_replaced_and_flagged(image_folder):
    """The next image stands in; the flag says which one it was."""
    paths = list_images(image_folder)
    paths[2].write_bytes(b"")
    dataset = TwoViewImages(image_folder, VIEWS)
    assert dataset[SampleKey(0, 0, 2)]["views"].shape == (2, 3, 32, 32)
    assert dataset.undecodable.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert dataset.sample_name(2) == str(paths[2])


def test_no_decodable_image_is_an_error(tmp_path):
    """A folder of broken files does not loop for ever."""
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UndecodableImageError, match="none of the 1 images"):
        TwoViewImages(tmp_path, VIEWS)[SampleKey(0, 0, 0)]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_any_colour_mode_becomes_rgb(tmp_path, mode):
    """Gray, palette, transparent, CMYK and 16-bit files decode to RGB of the same size."""
    sixteen_bit = Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(40, 48))
    image = sixteen_bit if mode == "I;16" else Image.new(mode, (48, 40))
    suffix = "jpg" if mode == "CMYK" else "png"
    image.save(tmp_path / f"a.{suffix}")
    decoded = decode_image(tmp_path / f"a.{suffix}")
    assert (decoded.mode, decoded.size) == ("RGB", (48, 40))


def test_exif_orientation_is_applied(tmp_path):
    """A picture taken with the camera turned comes upright."""
    image = Image.new("RGB", (48, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    assert decode_image(tmp_path / "a.jpg").size == (40, 48)


def test_truncated_image_is_named(image_folder):
    """Half a file is no image; the error holds the path."""
    path = list_images(image_folder)[0]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UndecodableImageError, match=path.name):
        decode_image(path)


@pytest.mark.parametrize(
    ("options", "message"), [(dict(size=4), "view size is 4"), (dict(size=32, blur=1.5), "blur is 1.5")]
)
def test_bad_view_options_are_refused(options, message):
    """The offending value is in the message."""
    with pytest.raises(ValueError, match=message):
        TwoViews(**options)


def test_folder_errors(tmp_path):
    """A missing folder and one without images are told apart."""
    with pytest.raises(ValueError, match="does not exist"):
        list_images(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no image"):
        list_images(tmp_path)
