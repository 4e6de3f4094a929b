"""Finding and decoding image files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class UndecodableImageError(ValueError):
    """An image file that cannot be read; the message names the file and the reason."""


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its suffix, and not if macOS wrote it beside one (``._*``)."""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES and not base.startswith("._")


def list_images(root: str | Path) -> list[Path]:
    """All image files below ``root``, links to folders followed, in sorted order of their path.

    Raises:
        ValueError: ``root`` is no directory or holds no image.
    """
    return [Path(root) / name for name in list_image_names(root)]


def list_image_names(root: str | Path) -> list[str]:
    """As :func:`list_images`, but paths relative to ``root`` with slashes: a million of them take far less as strings."""
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"image folder {root} does not exist; pass the folder that holds the images with --data-root")
    names = sorted(walk_images(root))
    if not names:
        raise ValueError(f"image folder {root} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return names


def walk_images(root: Path) -> Iterator[str]:
    """Paths of the image files below ``root``, relative to it, in no particular order, found as they are asked for."""
    start = len(os.path.join(root, ""))
    for folder, subfolders, names in os.walk(root, followlinks=True):
        # a link to a folder above would be walked until the system's limit, and its images found some forty times
        subfolders[:] = [name for name in subfolders if not _leads_upwards(os.path.join(folder, name))]
        within = os.path.join(folder, "")[start:].replace(os.sep, "/")
        yield from (within + name for name in names if is_image(name))


def _leads_upwards(folder: str) -> bool:
    if not os.path.islink(folder):
        return False
    target = os.path.realpath(folder)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(folder))]) == target


def decode_image(file: str | Path | bytes | BinaryIO, name: str | None = None) -> Image.Image:
    """Decodes an image to RGB, upright by its EXIF orientation, as a person would see it.

    Transparency is composited on white, as web browsers show it. CMYK is converted (JPEGs in Adobe's inverted convention).
    Of several frames or pages the first one counts. Gray values of 16 bits are scaled to 8 bits, not clipped; float
    values by the smallest full scale of 1, 255 and 65535 that holds them; values that are negative or greater than any
    full scale are stretched from the smallest to the largest. A damaged EXIF block is ignored.

    Args:
        file: a path, the bytes of a file, or a file open for reading in binary mode.
        name: what to call it in the message of an error; a path's own by default.

    Raises:
        UndecodableImageError: the file is missing, empty, truncated or no image.
    """
    if name is None:
        name = str(file) if isinstance(file, str | Path) else getattr(file, "name", "an image in memory")
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            image.load()
            return _to_rgb(_upright(image))
    except UnidentifiedImageError as error:
        reason = "it is empty" if _is_empty(file) else "it is in no image format that PIL reads"
        raise UndecodableImageError(f"{name} cannot be decoded: {reason}") from error
    except Exception as error:  # damaged files raise nearly anything: OSError, SyntaxError, struct.error, IndexError
        raise UndecodableImageError(f"{name} cannot be decoded: {error or type(error).__name__}") from error


def _is_empty(file: str | Path | bytes | BinaryIO) -> bool:
    if isinstance(file, bytes):
        return not file
    if isinstance(file, str | Path):
        return os.path.getsize(file) == 0
    return file.seek(0, os.SEEK_END) == 0


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # of the EXIF block alone: the pixels are loaded already
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _scaled_to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)  # (H, W)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its values is finite")
    black, white = 0.0, float(finite.max())
    full_scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    if finite.min() < 0 or white > full_scales[-1]:
        black = float(finite.min())
    else:
        white = min(scale for scale in full_scales if white <= scale)
    values = np.nan_to_num(values, nan=black, posinf=white, neginf=black)
    values = (values - black) * (255 / ((white - black) or 1.0))
    return Image.fromarray(np.rint(values).astype(np.uint8))
