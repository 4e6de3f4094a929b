"""Finding and decoding image files."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class UndecodableImageError(ValueError):
    """An image file that cannot be read; the message names the file and the reason."""


def list_images(root: str | Path) -> list[Path]:
    """All image files below ``root``, links to folders followed, in sorted order of their path.

    Raises:
        ValueError: ``root`` is no directory or holds no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"image folder {root} does not exist; pass the folder that holds the images with --data-root")
    files = (Path(folder) / name for folder, _, names in os.walk(root, followlinks=True) for name in names)
    paths = sorted((path for path in files if path.suffix.lower() in IMAGE_SUFFIXES), key=lambda path: path.as_posix())
    if not paths:
        raise ValueError(f"image folder {root} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return paths


def decode_image(path: str | Path) -> Image.Image:
    """Decodes a file to RGB, upright by its EXIF orientation.

    Raises:
        UndecodableImageError: the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UndecodableImageError(f"{path} cannot be decoded: {error}") from error
