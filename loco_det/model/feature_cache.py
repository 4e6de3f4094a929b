"""Features of frozen backbones, computed once per image.

A backbone that is frozen as a whole maps equal images to equal features, in every epoch, every split and in evaluation.
The cache is addressed by content (image and weights), so it is right under any augmentation; it pays where the same pixels
come again, as with small sets and without random augmentation.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

Features = tuple[Tensor, ...]


class FeatureCache:
    """Least-recently-used features by image content, bounded in bytes.

    Args:
        max_bytes: the oldest entries go when the features kept exceed this.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[bytes, Features] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def forward(self, compute: Callable[[Tensor], Features], x: Tensor, weights_key: bytes) -> Features:
        """Features of a batch, with ``compute`` run on the images that are not in the cache.

        Args:
            compute: maps ``(1, 3, H, W)`` to feature maps ``(1, C, h, w)``, without a graph.
            x: batch ``(B, 3, H, W)``.
            weights_key: identifies ``compute``, see :func:`weights_fingerprint`.

        Returns:
            Feature maps ``(B, C, h, w)`` on the device of ``x``.
        """
        keys = [_key(image, weights_key) for image in x.cpu()]
        rows = {key: self._kept[key] for key in keys if key in self._kept}
        for i, key in enumerate(keys):
            if key not in rows:  # alone: its last bits must not depend on its batch, which another run fills with others
                rows[key] = tuple(level[0].cpu() for level in compute(x[i : i + 1]))
        for key, features in rows.items():
            self._keep(key, features)
        return tuple(torch.stack([rows[key][level] for key in keys]).to(x.device) for level in range(len(rows[keys[0]])))

    def _keep(self, key: bytes, features: Features) -> None:
        if key not in self._kept:
            self.num_bytes += sum(level.nbytes for level in features)
        self._kept[key] = features
        self._kept.move_to_end(key)
        while self.num_bytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.num_bytes -= sum(level.nbytes for level in oldest)


def _key(image: Tensor, weights_key: bytes) -> bytes:
    shape = f"{tuple(image.shape)} {image.dtype}".encode()
    return hashlib.blake2b(shape + image.numpy().tobytes(), key=weights_key, digest_size=16).digest()


def weights_fingerprint(module: nn.Module, *options: str) -> bytes:
    """Sixteen bytes that identify a module's parameters and buffers, and options of what is computed with them."""
    digest = hashlib.blake2b("|".join(options).encode(), digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()
