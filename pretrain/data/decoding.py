"""Finding and decoding image files."""

from __future__ import annotations

import contextlib
import os
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# a fixed list: with whatever PIL was built to read, the images of a folder, and so a run, would depend on the machine
IMAGE_SUFFIXES = frozenset(
    (".apng", ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg")
    + (".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
Image.MAX_IMAGE_PIXELS = None  # scans, slides and satellite images are larger than PIL's limit


class CorruptImageError(ValueError):
    """An image file that cannot be read; the message names the file and the reason."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is skipped: ``.ipynb_checkpoints``, macOS's ``._*`` beside images, ``__MACOSX``."""
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


def list_images(root: str | Path) -> list[str]:
    """Paths of all image files below ``root``, relative to it, sorted; links to folders are followed.

    Raises:
        ValueError: ``root`` is not a folder or holds no image.
    """
    if not os.path.isdir(root):
        raise ValueError(f"image folder {root} does not exist; pass the folder that holds the images with --data-root")
    start = len(os.path.join(root, ""))
    names: list[str] = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not is_hidden(name)]
        within = os.path.join(folder, "")[start:]
        names += [within + name for name in files
                  if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_hidden(name)]
    if not names:
        raise ValueError(f"image folder {root} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return sorted(names)


def decode_image(file: str | Path | bytes, name: str | None = None) -> Image.Image:
    """Decodes an image to RGB, upright by its EXIF orientation.

    Transparency is composited on white. 16-bit gray is divided by 257. Of several frames or pages the first one counts.

    Args:
        file: a path, or the bytes of a file.
        name: what to call it in the message of an error; a path's own by default.

    Raises:
        CorruptImageError: the file is missing, empty, truncated or not an image.
    """
    name = name or (f"{len(file)} bytes" if isinstance(file, bytes) else str(file))
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            image.load()
            with contextlib.suppress(Exception):  # the EXIF block may be damaged where the pixels are not
                ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except Exception as error:  # damaged files raise nearly anything: OSError, SyntaxError, struct.error, IndexError
        raise CorruptImageError(f"{name} cannot be decoded: {error or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # PIL's own conversion clips the 65,536 values at 255
        values = np.asarray(image)  # (H, W)
        if 0 < values.max() < 4096:
            warnings.warn("16-bit images with values below 4096 have few gray levels left in 8 bits; scale the files to the "
                          "full range of 0 to 65535", stacklevel=2)
        image = Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
