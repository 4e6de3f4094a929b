"""Finding and decoding image files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class UndecodableImageError(ValueError):
    """An image file that cannot be read; the message names the file and the reason."""


def list_images(root: str | Path) -> list[Path]:
    """All image files below ``root``, in sorted order of their path relative to it.

    Raises:
        ValueError: ``root`` is no directory or holds no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"image folder {root} does not exist; pass the folder that holds the images with --data-root")
    files = (path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    paths = sorted(files, key=lambda path: path.relative_to(root).as_posix())
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
