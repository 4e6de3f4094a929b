"""Peak memory and FLOPs of one training step, by learning rule, with their ratios to SimCLR.

    python tools/memory.py --encoder resnet50 --methods simclr gim loco
    python tools/memory.py --encoder presnet50 --methods gim loco --recompute norm --format json
    python tools/memory.py --encoder resnet50 --methods loco configs/pretrain/ablations/table5_l2_1e-3.py

The step is counted on fake tensors: exact, without a GPU, in seconds. GB are 10^9 bytes; the peak is
parameters, gradients and activations, the optimizer's state comes on top. SimCLR and SimCLR with every block checkpointed
are always shown; ratios are to SimCLR without recomputation. A method may also be a pretraining config file, of which the
learning rule, heads and sharing count; encoder and recomputation are those of the command line.
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
    parser.add_argument("--methods", nargs="+", default=["simclr", "gim", "loco"], metavar="METHOD",
                        help="names of rules or config files (default: simclr gim loco)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images, views counted apart (default: 64)")
    parser.add_argument("--input-size", type=int, default=224, metavar="PX", help="side of the image (default: 224)")
    parser.add_argument("--recompute", default="none", metavar="MODE", help="none, norm, stage or block (default: none)")
    parser.add_argument("--autocast", choices=("bfloat16",), help="type of the forward passes (default: float32)")
    parser.add_argument("--measured", action="store_true", help="measure the peak of real steps on the CUDA device, too")
    parser.add_argument("--timed", action="store_true", help="time real steps on this machine, too")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    args = parser.parse_args()
    from pretrain.costs.memory import compare_methods, format_table, method_options
    from pretrain.costs.step_benchmark import add_measurements

    methods = {Path(name).stem: method_options(name) for name in args.methods}
    encoder = encoder_spec(args.encoder)
    report = compare_methods(encoder, methods, args.batch_size, args.input_size, args.recompute, args.autocast)
    if args.measured or args.timed:
        add_measurements(report, encoder, methods, memory=args.measured, seconds=args.timed)
    if args.format == "json":
        return json.dumps({"encoder": args.encoder, **report}, indent=2)
    return format_table(report)


if __name__ == "__main__":
    main()
