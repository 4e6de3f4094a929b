"""Parameters, FLOPs and activation memory of an encoder, in total and per stage.

    python tools/complexity.py --encoder resnet50
    python tools/complexity.py --encoder timm/convnext_tiny --input-size 160 --format json

FLOPs are multiply-adds of convolutions and linear layers. "memory" is the count of LoCo's table 6 (elements of convolution
outputs in residual branches), "activations" what autograd keeps of one image for the backward pass, in float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import command, encoder_spec, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("--encoder", required=True, metavar="NAME", help="a registered encoder, or timm/NAME")
    parser.add_argument("--input-size", type=int, default=224, metavar="PX", help="side of the image (default: 224)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    args = parser.parse_args()
    from pretrain.costs.complexity import format_table, stage_complexity
    from pretrain.encoders import build_encoder

    complexity = stage_complexity(build_encoder(encoder_spec(args.encoder)), args.input_size)
    if args.format == "json":
        return json.dumps({"encoder": args.encoder, **complexity.as_dict()}, indent=2)
    return format_table(complexity)


if __name__ == "__main__":
    main()
