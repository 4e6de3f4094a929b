"""The two-view data set: a pure function of its key, with sane views."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from pretrain.data.dataset import KeyedSampler, SampleKey, TwoViewImages
from pretrain.data.decoding import CorruptImageError, decode_image, list_images
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


def test_corrupt_images_are_replaced_and_flagged(image_folder):
    """The next image stands in; the flag says which one it was."""
    paths = list_images(image_folder)
    paths[2].write_bytes(b"")
    dataset = TwoViewImages(image_folder, VIEWS)
    assert dataset[SampleKey(0, 0, 2)]["views"].shape == (2, 3, 32, 32)
    assert dataset.corrupt.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert dataset.sample_name(2) == str(paths[2])


def test_no_decodable_image_is_an_error(tmp_path):
    """A folder of broken files does not loop for ever."""
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(CorruptImageError, match="none of the 1 images"):
        TwoViewImages(tmp_path, VIEWS)[SampleKey(0, 0, 0)]


def decoded(image, suffix="png", **options):
    """The pixels that :func:`decode_image` finds in the file that PIL writes of an image, ``(H, W, 3)`` uint8."""
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(suffix, suffix.upper()), **options)
    result = decode_image(buffer.getvalue())
    assert result.mode == "RGB"
    return np.asarray(result)


def gray_rgb(values):
    return np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=-1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"])
def test_any_colour_mode_becomes_rgb(mode):
    """Whatever a TIFF may hold decodes to RGB of the same size."""
    image = Image.new(mode, (48, 40))
    suffix = "jpg" if mode == "YCbCr" else "png" if mode in ("LA", "P") else "tif"
    assert decoded(image, suffix).shape == (40, 48, 3)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_gray_is_scaled(suffix):
    """All 65,536 values become the nearest of 256 (PIL's own conversion clips those above 255 to white)."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = gray_rgb(np.rint(values.astype(np.float64) / 257))
    assert np.array_equal(decoded(Image.fromarray(values), suffix), expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 0.25, 0.5], [0, 64, 128]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 5e5, 1e6], [0, 128, 255]),
        ([np.nan, np.inf, 1.0], [0, 255, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
    ],
)
def test_float_images_are_scaled(values, expected):
    """By the smallest full scale that holds them; negative and huge values are stretched; inf is white, nan black."""
    assert np.array_equal(decoded(Image.fromarray(np.array([values], dtype=np.float32)), "tif"), gray_rgb([expected]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 1, 200], [0, 1, 200]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 256, 2570], [0, 1, 10]),
        ([-100_000, 0, 100_000], [0, 128, 255]),
        ([0, 500_000, 1_000_000], [0, 128, 255]),
    ],
)
@pytest.mark.parametrize("orientation", [None, 3])
def test_32_bit_integers_are_scaled(values, expected, orientation):
    """By the smallest of 255 and 65,535 that holds them, or stretched; no matter if the image is turned upright before."""
    exif = {} if orientation is None else {"tiffinfo": {0x0112: orientation}}
    expected = gray_rgb([expected if orientation is None else expected[::-1]])
    assert np.array_equal(decoded(Image.fromarray(np.array([values], dtype=np.int32)), "tif", **exif), expected)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_dark_16_bit_gray_stays_dark(suffix):
    """A file of 16 bits has its full scale, also where PIL opens it as if it had 32 (PGM, in older versions PNG)."""
    values = np.array([[0, 128, 255, 2570]], dtype=np.uint16)
    assert np.array_equal(decoded(Image.fromarray(values), suffix), gray_rgb([[0, 0, 1, 10]]))


def test_not_a_number_alone_is_no_image():
    """There is nothing to scale."""
    with pytest.raises(CorruptImageError, match="none of its values is finite"):
        decoded(Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)), "tif")


def test_one_bit_is_black_and_white():
    """Not 0 and 1."""
    assert np.array_equal(decoded(Image.fromarray(np.array([[True, False]]))), gray_rgb([[255, 0]]))


def test_transparency_is_composited_on_white():
    """Of RGBA, gray with alpha, palettes with an alpha per colour or a transparent index, and a transparent RGB colour."""
    white, half_red = [255, 255, 255], [255, 127, 127]
    pixels = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [255, 0, 0, 128]]], dtype=np.uint8)
    assert decoded(Image.fromarray(pixels)).tolist() == [[[255, 0, 0], white, half_red]]
    gray = np.array([[[10, 255], [10, 0]]], dtype=np.uint8)
    assert decoded(Image.fromarray(gray)).tolist() == [[[10] * 3, white]]
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 0, 255, 0, 0])
    assert decoded(palette, transparency=bytes([255, 0, 128])).tolist() == [[[255, 0, 0], white, half_red]]
    assert decoded(palette, transparency=1).tolist() == [[[255, 0, 0], white, [255, 0, 0]]]
    assert decoded(palette, "gif", transparency=1).tolist() == [[[255, 0, 0], white, [255, 0, 0]]]
    colours = Image.fromarray(np.array([[[255, 0, 0], [1, 2, 3]]], dtype=np.uint8))
    assert decoded(colours, transparency=(1, 2, 3)).tolist() == [[[255, 0, 0], white]]


def test_cmyk_jpegs_are_not_negatives():
    """Adobe writes CMYK inverted, and so does PIL: a light blue stays light blue. TIFF's are not inverted."""
    light_blue = Image.new("CMYK", (16, 16), (80, 10, 0, 0))
    for suffix in ("jpg", "tif"):
        assert np.abs(decoded(light_blue, suffix).astype(int) - [175, 245, 255]).max() <= 2


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw", "tiff_adobe_deflate"])
def test_packed_ycbcr_tiffs_are_converted(compression):
    """By their colours, within the rounding of YCbCr; those that are not packed PIL cannot read back, and they are named."""
    pixels = np.full((16, 16, 3), (200, 30, 90), dtype=np.uint8)
    image = Image.fromarray(pixels).convert("YCbCr")
    assert np.abs(decoded(image, "tif", compression=compression).astype(int) - pixels).max() <= 2
    with pytest.raises(CorruptImageError):
        decoded(image, "tif")


def test_lab_is_converted_by_its_colours():
    """A middle gray of CIELAB."""
    gray = Image.new("RGB", (4, 4), (120, 120, 120))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(gray, *profiles, outputMode="LAB")
    assert np.abs(decoded(lab, "tif").astype(int) - 120).max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_counts(suffix):
    """Of animations and of pages."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = dict(lossless=True) if suffix == "webp" else {}
    pixels = decoded(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied(orientation, suffix):
    """The marked corner, at the EXIF standard's place of row 0 and column 0, comes to the upper left."""
    # where row 0 and column 0 lie in the file is what the standard's table says, undone here on the array
    scene = np.full((24, 32), 0, dtype=np.uint8)
    scene[:8, :8] = 255
    undo = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: np.transpose,
            6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(x, 2).T, 8: lambda x: np.rot90(x, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decoded(Image.fromarray(np.ascontiguousarray(undo[orientation](scene))), suffix, exif=exif)
    assert np.abs(pixels.astype(int) - gray_rgb(scene)).max() < 40


def test_damaged_exif_is_ignored():
    """The pixels are sound, so the image is."""
    damaged = b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, 3, 0xFFFFFF) + b"\xff\xff"
    assert decoded(Image.new("RGB", (48, 40)), "jpg", exif=damaged).shape == (40, 48, 3)
    assert decoded(Image.new("RGB", (48, 40)), "jpg", exif=b"Exif\0\0garbage").shape == (40, 48, 3)


def test_bytes_files_and_paths_decode_alike(image_folder):
    """The three ways in; errors call the image what they are told."""
    path = list_images(image_folder)[0]
    with open(path, "rb") as file:
        from_file = decode_image(file)
        assert not file.closed
    images = [decode_image(path), decode_image(str(path)), decode_image(path.read_bytes()), from_file]
    assert all(np.array_equal(np.asarray(images[0]), np.asarray(image)) for image in images[1:])
    with pytest.raises(CorruptImageError, match="^shard 3, sample 5 cannot be decoded: it is in no image format"):
        decode_image(b"text", name="shard 3, sample 5")
    with pytest.raises(CorruptImageError, match="^an image in memory cannot be decoded: it is empty"):
        decode_image(io.BytesIO())


def test_truncated_image_is_named(image_folder):
    """Half a file is no image; the error holds the path."""
    path = list_images(image_folder)[0]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorruptImageError, match=path.name):
        decode_image(path)
    path.write_bytes(b"")
    with pytest.raises(CorruptImageError, match=f"{path.name} cannot be decoded: it is empty"):
        decode_image(path)
    path.unlink()
    with pytest.raises(CorruptImageError, match=f"{path.name} cannot be decoded: .*No such file"):
        decode_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp", "gif", "pgm"])
def test_files_cut_anywhere_never_raise_anything_else(suffix):
    """A download that stopped: an image or an CorruptImageError, at whatever byte."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(suffix, suffix.upper()))
    content = buffer.getvalue()
    failed = 0
    for size in range(0, len(content) - 16, 7):
        try:
            decode_image(content[:size])
        except CorruptImageError:
            failed += 1
    assert failed > 0.8 * len(range(0, len(content) - 16, 7))


@pytest.mark.parametrize(
    ("options", "message"), [(dict(size=4), "view size is 4"), (dict(size=32, blur=1.5), "blur is 1.5")]
)
def test_bad_view_options_are_refused(options, message):
    """The offending value is in the message."""
    with pytest.raises(ValueError, match=message):
        TwoViews(**options)


def test_any_source_of_images(image_folder, tmp_path):
    """Source and split choose the images; names are the source's, views those of the same image from another source."""
    (tmp_path / "images" / "train.txt").write_text("part0/4.png\npart1/3.png\npart1/1.png\n")
    dataset = TwoViewImages(tmp_path / "images", VIEWS, source=dict(type="file_list", file="{split}.txt"), split="train")
    folder = TwoViewImages(image_folder, VIEWS, split="part1")
    assert (len(dataset), len(folder)) == (3, 4)
    assert dataset.sample_name(1) == folder.sample_name(1) == str(image_folder / "part1" / "3.png")
    first, second = SampleKey(0, 2, 0), SampleKey(0, 2, 1)
    assert torch.equal(dataset[second]["views"], folder[second]["views"])
    assert not torch.equal(dataset[first]["views"], folder[first]["views"])
    with pytest.raises(ValueError, match="unknown image source 'foldr'; nearest known names: folder"):
        TwoViewImages(image_folder, VIEWS, source="foldr")


def test_the_sampler_takes_the_order_of_the_source(image_folder):
    """An epoch runs in the order that the source gives it for the sampler's seed and epoch."""
    dataset = TwoViewImages(image_folder, VIEWS)
    dataset.source.epoch_order = lambda generator: np.roll(np.arange(8), generator.integers(1, 8))
    sampler = KeyedSampler(dataset, seed=2)
    sampler.set_epoch(4)
    shift = int(np.random.default_rng([2, 4]).integers(1, 8))
    assert [key.index for key in sampler] == np.roll(np.arange(8), shift).tolist()


def test_folder_errors(tmp_path):
    """A missing folder and one without images are told apart."""
    with pytest.raises(ValueError, match="does not exist"):
        list_images(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no image"):
        list_images(tmp_path)
