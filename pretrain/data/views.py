"""The two-view augmentation of contrastive learning."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

CROP_RATIO = (3 / 4, 4 / 3)  # width over height
JITTER_PROBABILITY = 0.8
BLUR_SIGMA = (0.1, 2.0)  # pixels


class TwoViews:
    """SimCLR's augmentation, drawn twice (LoCo, section 5.1: random cropping, colour distortion, Gaussian blur).

    All randomness comes from torch's default generator.

    Args:
        size: side of the square views in pixels.
        min_scale: smallest share of the image's area that a crop covers.
        color_strength: 1.0 is jitter 0.8 / 0.8 / 0.8 / 0.2 (brightness, contrast, saturation, hue), applied with p 0.8.
        grayscale: probability of a gray view.
        blur: probability of a Gaussian blur with sigma 0.1 to 2 and a kernel of 10% of the side.

    Raises:
        ValueError: an option is out of range, see :func:`check_view_options`.
    """

    def __init__(
        self,
        size: int,
        min_scale: float = 0.08,
        color_strength: float = 1.0,
        grayscale: float = 0.2,
        blur: float = 0.5,
    ) -> None:
        check_view_options(size, min_scale, color_strength, grayscale, blur)
        jitter = v2.ColorJitter(*jitter_strengths(color_strength))
        self.transform = v2.Compose([
            v2.RandomResizedCrop(
                size, scale=(min_scale, 1.0), ratio=CROP_RATIO, interpolation=v2.InterpolationMode.BICUBIC
            ),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([jitter], p=JITTER_PROBABILITY),
            v2.RandomGrayscale(grayscale),
            v2.PILToTensor(),
            v2.RandomApply([v2.GaussianBlur(blur_kernel_size(size), sigma=BLUR_SIGMA)], p=blur),
        ])

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image -> two views, ``(2, 3, size, size)`` uint8."""
        return torch.stack([self.transform(image), self.transform(image)])


def check_view_options(size: int, min_scale: float, color_strength: float, grayscale: float, blur: float) -> None:
    """Checks the options that every implementation of the two views takes, see :class:`TwoViews`.

    Raises:
        ValueError: the size is below 8 pixels, a share or probability lies outside [0, 1], or the colour strength outside
            [0, 2.5].
    """
    if size < 8:
        raise ValueError(f"view size is {size}; at least 8 pixels are needed")
    for name, value in (("min_scale", min_scale), ("grayscale", grayscale), ("blur", blur)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must lie in [0, 1]")
    if not 0 <= color_strength <= 2.5:
        raise ValueError(f"color_strength is {color_strength}; it must lie in [0, 2.5] (at 2.5 every hue is drawn)")


def jitter_strengths(color_strength: float) -> tuple[float, float, float, float]:
    """Strength of brightness, contrast, saturation and hue jitter."""
    return 0.8 * color_strength, 0.8 * color_strength, 0.8 * color_strength, 0.2 * color_strength


def blur_kernel_size(size: int) -> int:
    """Side of the blur's kernel in pixels: 10% of the view's, odd, at least 3."""
    return max(3, int(0.1 * size) // 2 * 2 + 1)
