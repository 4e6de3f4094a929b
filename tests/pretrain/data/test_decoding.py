"""Image files: which are found, and that whatever users have decodes to upright RGB or is reported as corrupt."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pretrain.data.decoding import IMAGE_SUFFIXES, CorruptImageError, decode_image, list_images

FORMATS = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}


def encoded(image, suffix="png", **options):
    """The file that PIL writes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, FORMATS.get(suffix, suffix.upper()), **options)
    return buffer.getvalue()


def decoded(image, suffix="png", **options):
    """The pixels that :func:`decode_image` finds in the file that PIL writes of an image, ``(H, W, 3)`` uint8."""
    result = decode_image(encoded(image, suffix, **options))
    assert result.mode == "RGB"
    return np.asarray(result)


def gray_rgb(values):
    return np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=-1)


def test_images_are_found_at_any_depth(tmp_path):
    """In sorted order, through links to folders; hidden files and folders, and other files, are skipped."""
    for name in ("b/deep/1.png", "b/2.GIF", "a-b/3.jpeg", "a/9.tif", "top.webp", "a/notes.txt", "a/LICENSE", "a/._9.tif",
                 ".ipynb_checkpoints/0.png", "__MACOSX/0.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    (tmp_path / "linked").symlink_to("images/a")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "linked")
    expected = ["a-b/3.jpeg", "a/9.tif", "b/2.GIF", "b/deep/1.png", "link/9.tif", "top.webp"]
    assert list_images(tmp_path / "images") == list_images(f"{tmp_path}/images/") == expected
    for folder, message in (("images/.hidden", "does not exist"), ("images/a/empty", "holds no image")):
        if "empty" in folder:
            (tmp_path / folder).mkdir()
        with pytest.raises(ValueError, match=message):
            list_images(tmp_path / folder)


def test_pil_reads_every_suffix():
    """And what it can write of them decodes."""
    Image.init()
    extensions = Image.registered_extensions()
    assert set(extensions) >= IMAGE_SUFFIXES
    for suffix in IMAGE_SUFFIXES:
        if extensions[suffix] in Image.SAVE:
            buffer = io.BytesIO()
            Image.new("RGB", (6, 5)).save(buffer, extensions[suffix])
            assert decode_image(buffer.getvalue()).size == (6, 5)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"])
def test_any_colour_mode_becomes_rgb(mode):
    """Of the same size."""
    suffix = "jpg" if mode == "YCbCr" else "png" if mode in ("LA", "P") else "tif"
    assert decoded(Image.new(mode, (48, 40)), suffix).shape == (40, 48, 3)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_gray_is_scaled(suffix):
    """All 65,536 values become the nearest of 256 (PIL's own conversion clips those above 255 to white)."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = gray_rgb(np.rint(values.astype(np.float64) / 257))
    assert np.array_equal(decoded(Image.fromarray(values), suffix), expected)


def test_16_bit_gray_of_few_levels_warns():
    """12-bit values of an X-ray or a microscope in a 16-bit file, of which little is left in 8 bits."""
    with pytest.warns(UserWarning, match="scale the files"):
        decoded(Image.fromarray(np.array([[1168, 2096]], dtype=np.uint16)))


def test_transparency_is_composited_on_white():
    """Of RGBA, gray with alpha, palettes with a transparent index, and a transparent RGB colour."""
    white, half_red = [255, 255, 255], [255, 127, 127]
    pixels = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [255, 0, 0, 128]]], dtype=np.uint8)
    assert decoded(Image.fromarray(pixels)).tolist() == [[[255, 0, 0], white, half_red]]
    gray = np.array([[[10, 255], [10, 0]]], dtype=np.uint8)
    assert decoded(Image.fromarray(gray)).tolist() == [[[10] * 3, white]]
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 0, 255, 0, 0])
    assert decoded(palette, "gif", transparency=1).tolist() == [[[255, 0, 0], white, [255, 0, 0]]]
    colours = Image.fromarray(np.array([[[255, 0, 0], [1, 2, 3]]], dtype=np.uint8))
    assert decoded(colours, transparency=(1, 2, 3)).tolist() == [[[255, 0, 0], white]]


def test_cmyk_jpegs_are_not_negatives():
    """Adobe writes CMYK inverted, and so does PIL: a light blue stays light blue."""
    light_blue = Image.new("CMYK", (16, 16), (80, 10, 0, 0))
    assert np.abs(decoded(light_blue, "jpg").astype(int) - [175, 245, 255]).max() <= 2


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_the_first_frame_counts(suffix):
    """Of animations and of pages."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    pixels = decoded(frames[0], suffix, save_all=True, append_images=frames[1:])
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    """The marked corner, at the EXIF standard's place of row 0 and column 0, comes to the upper left."""
    # where row 0 and column 0 lie in the file is what the standard's table says, undone here on the array
    scene = np.full((24, 32), 0, dtype=np.uint8)
    scene[:8, :8] = 255
    undo = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: np.transpose,
            6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(x, 2).T, 8: lambda x: np.rot90(x, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(undo[orientation](scene)))
    assert np.abs(decoded(image, "jpg", exif=exif).astype(int) - gray_rgb(scene)).max() < 40
    assert np.array_equal(decoded(image, "png", exif=exif), gray_rgb(scene))


def test_damaged_exif_is_ignored():
    """The pixels are intact, so the image is used."""
    damaged = b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, 3, 0xFFFFFF) + b"\xff\xff"
    for exif in (damaged, b"Exif\0\0garbage"):
        assert decoded(Image.new("RGB", (48, 40)), "jpg", exif=exif).shape == (40, 48, 3)


def test_huge_images_are_not_taken_for_decompression_bombs():
    """A header of 200 megapixels, beyond PIL's limit: it is the missing pixels that are reported."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 10_000, 1, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">II", zlib.crc32(header), 99) + b"IDAT"
    with pytest.raises(CorruptImageError) as caught:
        decode_image(png)
    assert "exceeds limit" not in str(caught.value)


def test_corrupt_files_are_named(tmp_path):
    """Truncated, empty, missing, or text."""
    content = encoded(Image.new("RGB", (40, 40)))
    for name, damaged in (("a.png", content[:60]), ("b.png", b""), ("c.png", None), ("d.png", b"text")):
        if damaged is not None:
            (tmp_path / name).write_bytes(damaged)
        with pytest.raises(CorruptImageError, match=f"{name} cannot be decoded"):
            decode_image(tmp_path / name)
    with pytest.raises(CorruptImageError, match="^shard 3, sample 5 cannot be decoded"):
        decode_image(b"text", name="shard 3, sample 5")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp", "gif", "pgm"])
def test_files_cut_anywhere_never_raise_anything_else(suffix):
    """A download that stopped: an image or a CorruptImageError, at whatever byte."""
    content = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)), suffix)
    sizes, failed = range(0, len(content) - 16, 7), 0
    for size in sizes:
        try:
            decode_image(content[:size])
        except CorruptImageError:
            failed += 1
    assert failed > 0.8 * len(sizes)
