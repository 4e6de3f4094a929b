"""The two-view augmentation of contrastive learning."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2


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
        ValueError: the size is below 8 pixels or a share or probability lies outside [0, 1].
    """

    def __init__(
        self,
        size: int,
        min_scale: float = 0.08,
        color_strength: float = 1.0,
        grayscale: float = 0.2,
        blur: float = 0.5,
    ) -> None:
        if size < 8:
            raise ValueError(f"view size is {size}; at least 8 pixels are needed")
        for name, value in (("min_scale", min_scale), ("grayscale", grayscale), ("blur", blur)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must lie in [0, 1]")
        jitter = v2.ColorJitter(0.8 * color_strength, 0.8 * color_strength, 0.8 * color_strength, 0.2 * color_strength)
        kernel = max(3, int(0.1 * size) // 2 * 2 + 1)
        self.transform = v2.Compose([
            v2.RandomResizedCrop(
                size, scale=(min_scale, 1.0), ratio=(3 / 4, 4 / 3), interpolation=v2.InterpolationMode.BICUBIC
            ),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([jitter], p=0.8),
            v2.RandomGrayscale(grayscale),
            v2.PILToTensor(),
            v2.RandomApply([v2.GaussianBlur(kernel, sigma=(0.1, 2.0))], p=blur),
        ])

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image -> two views, ``(2, 3, size, size)`` uint8."""
        return torch.stack([self.transform(image), self.transform(image)])
