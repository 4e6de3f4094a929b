"""Decoders (projection heads) on the output of a local unit, discarded after pretraining."""

from __future__ import annotations

from torch import Tensor, nn

from pretrain.encoders import Encoder


class Decoder(nn.Module):
    """Residual convolution blocks (optional), global average pooling and an MLP (LoCo, sections 4.2 and 5.1).

    The MLP has ``mlp_layers`` linear layers, each but the last followed by batch normalisation and ReLU. The paper leaves
    the hidden width and the place of the normalisation open: the width is that of the pooled features as in SimCLR, and
    the last layer has a bias and no normalisation.

    Args:
        encoder: the encoder whose kind of residual block the convolutional part uses.
        block: the unit's last block.
        conv_blocks: residual blocks before the pooling; 0 for SimCLR and GIM, 1 for LoCo in the main results.
        downsample: whether the first of these blocks halves the resolution (Table 4: "w/o ds" otherwise).
        mlp_layers: linear layers, >= 1; 2 in the main results.
        hidden_channels: width of the hidden layers, the pooled features' by default.
        out_channels: dimension of the contrastive space; 128 in the paper.

    Raises:
        ValueError: ``conv_blocks`` is negative or ``mlp_layers`` below 1.
    """

    def __init__(
        self,
        encoder: Encoder,
        block: int,
        conv_blocks: int = 0,
        downsample: bool = True,
        mlp_layers: int = 2,
        hidden_channels: int | None = None,
        out_channels: int = 128,
    ) -> None:
        super().__init__()
        if conv_blocks < 0 or mlp_layers < 1:
            raise ValueError(f"decoder has conv_blocks={conv_blocks} and mlp_layers={mlp_layers}; "
                             "at least 0 and 1 are needed")
        in_channels = encoder.block_channels[block]
        strides = [2 if downsample and i == 0 else 1 for i in range(conv_blocks)]
        self.convs = nn.Sequential(*(encoder.decoder_block(block, stride) for stride in strides))
        self.pool = nn.AdaptiveAvgPool2d(1)
        hidden = hidden_channels or in_channels
        layers: list[nn.Module] = []
        for i in range(mlp_layers - 1):
            layers += [
                nn.Linear(in_channels if i == 0 else hidden, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Linear(hidden if mlp_layers > 1 else in_channels, out_channels))
        self.mlp = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(B, C, h, w)`` -> projection ``(B, out_channels)``, not normalised."""
        x = self.pool(self.convs(x)).flatten(1)  # (B, C)
        return self.mlp(x)
