"""Any pretraining encoder as an mmdet backbone, frozen to any depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from loco_det.model.feature_cache import FeatureCache, weights_fingerprint
from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import load_into, read_backbone

_SHARED_CACHE = FeatureCache(max_bytes=0)  # one per process, so that the splits of an experiment share it


@MODELS.register_module()
class PretrainedEncoder(BaseModule):
    """An encoder of :mod:`pretrain.encoders` that yields one feature map a stage.

    Weights are loaded here and strictly, so a wrong file fails before anything trains; ``init_weights`` changes nothing.

    Args:
        encoder: name or config of the encoder.
        checkpoint: an exported backbone, a pretraining checkpoint or a bare state dict; None keeps the random
            initialisation.
        frozen_stages: how many stages, from the bottom, are frozen: no gradient, and batch norm in eval mode, also after
            ``train()``. 0 freezes nothing; 1 is the stem and res2 (mmdet's ResNet counts alike, but its 0 freezes the
            stem); ``"all"`` is every stage.
        norm_eval: batch norm of the trained stages in eval mode, too.
        sync_bn: make the batch norms SyncBN (LoCo, section 5.3); the Runner reverts it where it runs a single process.
        out_stages: names of the stages to return; all by default.
        out_strides: resize their maps bilinearly to these strides, one for each; for encoders whose own are not those of a
            feature pyramid. None leaves them as they are.
        cache_mib: MiB of memory for features of images already seen (:mod:`loco_det.model.feature_cache`); 0 for none.
            Needs a backbone that is frozen as a whole.

    Raises:
        ValueError: unknown encoder or stage, ``frozen_stages`` out of range, a checkpoint that does not fit, or a cache
            for a backbone that changes.
    """

    def __init__(
        self,
        encoder: str | Mapping,
        checkpoint: str | None = None,
        frozen_stages: int | str = 0,
        norm_eval: bool = False,
        sync_bn: bool = False,
        out_stages: Sequence[str] | None = None,
        out_strides: Sequence[int] | None = None,
        cache_mib: int = 0,
    ) -> None:
        super().__init__()
        built = build_encoder(encoder)
        self.stage_names = list(built.stages)
        self.out_stages = list(out_stages or self.stage_names)
        unknown = [name for name in self.out_stages if name not in self.stage_names]
        if unknown:
            raise ValueError(f"encoder has no stage {unknown[0]!r}; it has {', '.join(self.stage_names)}")
        if out_strides is not None and len(out_strides) != len(self.out_stages):
            raise ValueError(f"out_strides are {tuple(out_strides)}, but {len(self.out_stages)} stages are returned: "
                             f"{', '.join(self.out_stages)}")
        self.out_strides = None if out_strides is None else tuple(out_strides)
        if frozen_stages == "all":
            frozen_stages = len(self.stage_names)
        if frozen_stages not in range(len(self.stage_names) + 1):
            raise ValueError(f"frozen_stages is {frozen_stages!r}; the encoder has {len(self.stage_names)} stages")
        if checkpoint is not None:
            backbone = read_backbone(checkpoint)
            load_into(built, backbone, expected=encoder)
            print_log(f"backbone loaded from {checkpoint}, SHA-256 {backbone.sha256}", logger="current")
        self.encoder = built.convert_sync_batchnorm() if sync_bn else built
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.frozen_end = 0 if frozen_stages == 0 else built.stages[self.stage_names[frozen_stages - 1]][1]
        for parameter in self.encoder.parameters_of(0, self.frozen_end):
            parameter.requires_grad_(False)
        if cache_mib and frozen_stages < len(self.stage_names):
            raise ValueError(f"cache_mib is {cache_mib}, but only {frozen_stages} of {len(self.stage_names)} stages are "
                             "frozen; features of a trained backbone change, set cache_mib=0")
        _SHARED_CACHE.max_bytes = max(_SHARED_CACHE.max_bytes, cache_mib << 20)
        self._uses_cache = cache_mib > 0
        self._cache_keys: dict[torch.dtype, bytes] = {}  # by the type that features are computed in
        self.train()

    def init_weights(self) -> None:
        """Nothing: weights are initialised and loaded at construction."""

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Sets the mode, and puts what is frozen back into eval mode."""
        super().train(mode)
        for index in range(self.frozen_end):
            self.encoder.block(index).eval()
        if self.norm_eval:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalised RGB images ``(B, 3, H, W)`` -> feature maps of ``out_stages``, bottom up."""
        if not self._uses_cache:
            return self._run(x)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if dtype not in self._cache_keys:
            options = (*self.out_stages, str(self.out_strides), str(dtype))
            self._cache_keys[dtype] = weights_fingerprint(self.encoder, *options)
        return _SHARED_CACHE.forward(self._run, x, self._cache_keys[dtype])

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._cache_keys.clear()  # the weights are about to change
        super()._load_from_state_dict(*args, **kwargs)

    def _run(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs, sides = [], x.shape[-2:]
        for name, (start, end) in self.encoder.stages.items():
            # no_grad and not inference_mode: the heads save these tensors for their own backward pass
            with torch.set_grad_enabled(torch.is_grad_enabled() and start >= self.frozen_end):
                x = self.encoder.run(x, start, end)
            if name in self.out_stages:
                outputs.append(x)
        if self.out_strides is None:
            return tuple(outputs)
        return tuple(_resized(level, sides, stride) for level, stride in zip(outputs, self.out_strides, strict=True))


def _resized(features: Tensor, sides: Sequence[int], stride: int) -> Tensor:
    """``(B, C, h, w)`` -> ``(B, C, H / stride, W / stride)``, rounded up as convolutions with padding do."""
    size = [math.ceil(side / stride) for side in sides]
    return features if features.shape[-2:] == tuple(size) else F.interpolate(features, size, mode="bilinear")
