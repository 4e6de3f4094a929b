"""Finding and decoding image files."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from mmengine.logging import print_log
from PIL import Image, ImageOps, UnidentifiedImageError

# not whatever PIL has been built to read: the images of a folder, and so a run, would depend on the machine
IMAGE_SUFFIXES = frozenset(
    (".apng", ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg")
    + (".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)


class CorruptImageError(ValueError):
    """An image file that cannot be read; the message names the file and the reason."""


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its suffix, unless it is hidden (:func:`is_hidden`)."""
    return _suffix(name) in IMAGE_SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is passed over: ``.ipynb_checkpoints``, macOS's ``._*`` beside images, ``__MACOSX``."""
    base = os.path.basename(name)
    return (base.startswith(".") and base not in (".", "..")) or base == "__MACOSX"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def list_images(root: str | Path) -> list[Path]:
    """All image files below ``root``, links to folders followed, in sorted order of their path.

    Raises:
        ValueError: ``root`` is no directory or holds no image.
    """
    return [Path(root) / name for name in list_image_names(root)]


def list_image_names(root: str | Path) -> list[str]:
    """As :func:`list_images`, but paths relative to ``root`` with slashes: a million of them take far less as strings.

    A line in the log says how many other files there are, by their suffixes.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"image folder {root} does not exist; pass the folder that holds the images with --data-root")
    names: list[str] = []
    others: Counter[str] = Counter()
    for name in _walk_files(root):
        suffix = _suffix(name)
        if suffix in IMAGE_SUFFIXES:
            names.append(name)
        else:
            others[suffix or "no suffix"] += 1
    counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8)) + (", ..." if len(others) > 8 else "")
    if not names:
        found = f", only other files: {counts}" if others else ""
        raise ValueError(f"image folder {root} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}){found}")
    if others:
        print_log(f"image folder {root}: passed over {others.total()} files that are no images by their suffix ({counts})",
                  logger="current", level=logging.INFO)
    return sorted(names)


def walk_images(root: Path) -> Iterator[str]:
    """Paths of the image files below ``root``, relative to it, in no particular order, found as they are asked for."""
    return (name for name in _walk_files(root) if _suffix(name) in IMAGE_SUFFIXES)


def _walk_files(root: Path) -> Iterator[str]:
    """As :func:`walk_images`, but all files that are not hidden."""
    start = len(os.path.join(root, ""))
    walked_through = {os.fspath(root): (os.path.realpath(root),)}  # per folder to come: real paths from the root to it
    for folder, subfolders, names in os.walk(root, followlinks=True):
        above = walked_through.pop(folder)
        kept = []
        for name in subfolders:
            path = os.path.join(folder, name)
            is_link = os.path.islink(path)
            real = os.path.realpath(path) if is_link else os.path.join(above[-1], name)
            if not (is_hidden(name) or (is_link and _leads_back(real, above))):
                kept.append(name)
                walked_through[path] = (*above, real)
        subfolders[:] = kept
        within = os.path.join(folder, "")[start:].replace(os.sep, "/")
        yield from (within + name for name in names if not is_hidden(name))


def _leads_back(target: str, walked_through: tuple[str, ...]) -> bool:
    """Whether a link's target is or holds a folder that led to it: the system's limit alone, some forty, would end that."""
    return any(os.path.join(folder, "").startswith(os.path.join(target, "")) for folder in walked_through)


def decode_image(file: str | Path | bytes | BinaryIO, name: str | None = None) -> Image.Image:
    """Decodes an image to RGB, upright by its EXIF orientation, as a person would see it.

    Transparency is composited on white, as web browsers show it. CMYK is converted (JPEGs in Adobe's inverted convention).
    Of several frames or pages the first one counts. Gray values of 16 bits are scaled to 8 bits, not clipped; integers of
    32 bits by the smallest full scale of 255 and 65535 that holds them, floats by that of 1, 255 and 65535; values that are
    negative or greater than any full scale are stretched from the smallest to the largest. A damaged EXIF block is ignored.

    Args:
        file: a path, the bytes of a file, or a file open for reading in binary mode.
        name: what to call it in the message of an error; a path's own by default.

    Raises:
        CorruptImageError: the file is missing, empty, truncated or no image.
    """
    if name is None:
        name = str(file) if isinstance(file, str | Path) else getattr(file, "name", "an image in memory")
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            image.load()
            return _to_rgb(_upright(image), _full_scales(image))
    except UnidentifiedImageError as error:
        reason = "it is empty" if _is_empty(file) else "it is in no image format that PIL reads"
        raise CorruptImageError(f"{name} cannot be decoded: {reason}") from error
    except Exception as error:  # damaged files raise nearly anything: OSError, SyntaxError, struct.error, IndexError
        raise CorruptImageError(f"{name} cannot be decoded: {error or type(error).__name__}") from error


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


def _full_scales(image: Image.Image) -> tuple[float, ...]:
    """What may stand for white in a gray image of more than 8 bits, in ascending order."""
    if image.mode == "F":
        return (1.0, 255.0, 65535.0)
    # PIL opens 16-bit PGMs as mode I, older versions PNGs too; in a TIFF it means signed integers of 16 or 32 bits
    return (255.0, 65535.0) if image.mode == "I" and image.format == "TIFF" else (65535.0,)


def _to_rgb(image: Image.Image, full_scales: tuple[float, ...]) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _scaled_to_8_bits(image, full_scales)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image, full_scales: tuple[float, ...]) -> Image.Image:
    values = np.asarray(image).astype(np.float64)  # (H, W)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its values is finite")
    black, white = 0.0, float(finite.max())
    if finite.min() < 0 or white > full_scales[-1]:
        black = float(finite.min())
    else:
        white = min(scale for scale in full_scales if white <= scale)
    values = np.nan_to_num(values, nan=black, posinf=white, neginf=black)
    values = (values - black) * (255 / ((white - black) or 1.0))
    return Image.fromarray(np.rint(values).astype(np.uint8))
