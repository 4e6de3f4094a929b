"""The mmengine model that ties encoder, units, decoders and loss together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from torch import Tensor

from pretrain.decoders import Decoder
from pretrain.encoders import build_encoder
from pretrain.local_backprop import LocalBackprop
from pretrain.local_units import build_units, unit_names
from pretrain.losses import NTXentLoss

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, 0-255
IMAGENET_STD = (58.395, 57.12, 57.375)


@MODELS.register_module()
class LocalContrastiveLearner(BaseModel):
    """Trains an encoder with one contrastive loss a local unit.

    Args:
        encoder: name or config of the encoder, see :func:`pretrain.encoders.build_encoder`.
        rule: learning rule or list of block ranges, see :func:`pretrain.local_units.build_units`.
        decoder: options of :class:`~pretrain.decoders.Decoder`, the same for every unit.
        temperature: tau of NT-Xent.
        autocast: ``"bfloat16"`` to run the forward passes in bfloat16, None for float32.
        channels_last: keep convolution weights and inputs in channels-last order.
        allow_untrained: whether blocks that no unit reaches may stay untrained.
        data_preprocessor: mmengine's; by default batches are only moved to the device.

    Raises:
        ValueError: an argument does not fit; the message says which and what would.
    """

    def __init__(
        self,
        encoder: str | Mapping,
        rule: str | Mapping | Sequence,
        decoder: Mapping | None = None,
        temperature: float = 0.1,
        autocast: str | None = None,
        channels_last: bool = False,
        allow_untrained: bool = False,
        data_preprocessor: Mapping | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        if autocast not in (None, "bfloat16"):
            raise ValueError(f"autocast is {autocast!r}; None or 'bfloat16' is needed")
        self.encoder = build_encoder(encoder)
        self.units = build_units(rule, self.encoder.stages, allow_untrained)
        self.unit_names = unit_names(self.units, self.encoder.stages)
        self.decoders = torch.nn.ModuleList(Decoder(self.encoder, u.end - 1, **(decoder or {})) for u in self.units)
        self.loss = NTXentLoss(temperature)
        self.autocast = autocast
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.backprop = LocalBackprop(self.encoder, self.units, self._autocast_context, allow_untrained)

    def train_step(self, data: Mapping[str, Tensor], optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One optimisation step.

        Args:
            data: ``{"views": (N, 2, 3, H, W) uint8}``.
            optim_wrapper: a plain mmengine ``OptimWrapper``.

        Returns:
            Log variables: ``loss`` (sum over units), and per unit ``loss_<unit>`` and ``accuracy_<unit>`` (contrastive
            accuracy, 0 to 1).
        """
        if type(optim_wrapper) is not OptimWrapper or optim_wrapper._accumulative_counts != 1:
            raise ValueError("the learner steps a plain OptimWrapper without accumulation: contrastive losses do not add up "
                             "over smaller batches, and autocast is an option of the model")
        data = self.data_preprocessor(data, training=True)
        x = self.normalise(data["views"].transpose(0, 1).flatten(0, 1))  # (2N, 3, H, W), first views first
        accuracies: dict[str, Tensor] = {}

        def objective(name: str, decoder: Decoder):
            def loss_of(features: Tensor) -> Tensor:
                loss, accuracies[name] = self.loss(decoder(features))
                return loss

            return loss_of

        optim_wrapper.zero_grad()
        objectives = [objective(name, decoder) for name, decoder in zip(self.unit_names, self.decoders, strict=True)]
        losses = self.backprop.step(x, objectives)
        optim_wrapper.step()
        logs = {f"loss_{name}": loss for name, loss in zip(self.unit_names, losses, strict=True)}
        logs |= {f"accuracy_{name}": accuracy for name, accuracy in accuracies.items()}
        return {"loss": torch.stack(losses).sum(), **logs}

    def forward(self, inputs: Tensor, data_samples=None, mode: str = "tensor") -> dict[str, Tensor]:
        """Feature maps of every stage for images ``(B, 3, H, W)``, RGB 0-255; training goes through :meth:`train_step`."""
        if mode != "tensor":
            raise ValueError(f"mode {mode!r} is not served; the learner trains by train_step and reads out by mode='tensor'")
        return self.encoder(self.normalise(inputs))

    def normalise(self, images: Tensor) -> Tensor:
        """RGB 0-255, any dtype -> float32 with ImageNet's mean and standard deviation, in the model's memory format."""
        return ((images.float() - self.mean) / self.std).contiguous(memory_format=self.memory_format)

    def _autocast_context(self):
        device = next(self.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.autocast is not None)
