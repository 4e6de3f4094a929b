"""What an encoder and a training step cost, counted without a GPU.

    python tools/costs.py stages --encoder resnet50                     # parameters, FLOPs and memory of every stage
    python tools/costs.py stages --encoder timm/convnext_tiny --image-size 160 --format json
    python tools/costs.py step --encoder resnet50 --methods simclr gim loco          # peak memory and FLOPs of a step
    python tools/costs.py step --encoder presnet50 --methods gim loco --recompute norm --format json
    python tools/costs.py step --encoder resnet50 --methods loco configs/pretrain/ablations/table5_l2_1e-3.py

stages: FLOPs are multiply-adds of convolutions and linear layers. "memory" is the count of LoCo's table 6 (elements of
convolution outputs in residual branches), "activations" what autograd keeps of one image for the backward pass in float32.

step: counted on fake tensors, exact and in seconds. GB are 10^9 bytes; the peak is parameters, gradients and activations,
the optimizer's state comes on top. SimCLR and SimCLR with every block checkpointed are always shown; ratios are to SimCLR
without recomputation. A method may also be a pretraining config, of which the learning rule, heads and sharing count;
encoder and recomputation are those of the command line.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import command, parse_encoder, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar="stages|step")
    stages = commands.add_parser("stages", help="parameters, FLOPs and activation memory of every stage")
    step = commands.add_parser("step", help="peak memory and FLOPs of a training step by method, with ratios to SimCLR")
    for subparser, run in ((stages, stages_report), (step, step_report)):
        subparser.set_defaults(run=run)
        subparser.add_argument("--encoder", required=True, metavar="NAME", help="a registered encoder, or timm/NAME")
        subparser.add_argument("--image-size", type=int, default=224, metavar="PIXELS", help="default: 224")
        subparser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    step.add_argument("--methods", nargs="+", default=["simclr", "gim", "loco"], metavar="METHOD",
                      help="names of rules or config files (default: simclr gim loco)")
    step.add_argument("--batch-size", type=int, default=32, metavar="N",
                      help="images, each with two views (default: 32, the papers' batch of 64 views)")
    step.add_argument("--recompute", default="none", metavar="MODE", help="none, norm, stage or block (default: none)")
    step.add_argument("--autocast", choices=("bfloat16",), help="type of the forward passes (default: float32)")
    step.add_argument("--measured", action="store_true", help="measure the peak of real steps on the CUDA device, too")
    step.add_argument("--timed", action="store_true", help="time real steps on this machine, too")
    args = parser.parse_args()
    report, table = args.run(args)
    return table if args.format == "table" else json.dumps({"encoder": args.encoder, **report}, indent=2)


def stages_report(args: argparse.Namespace) -> tuple[dict, str]:
    """Costs of every stage as plain data and as a table."""
    # imported here, for it takes seconds: --help and wrong options do not wait for it
    from pretrain.costs.complexity import format_table, stage_complexity
    from pretrain.encoders import build_encoder

    complexity = stage_complexity(build_encoder(parse_encoder(args.encoder)), args.image_size)
    return complexity.as_dict(), format_table(complexity)


def step_report(args: argparse.Namespace) -> tuple[dict, str]:
    """Costs of a step as plain data and as a table."""
    from pretrain.costs.methods import method_options

    methods = {Path(name).stem: method_options(name) for name in args.methods}
    # imported here, for it takes seconds: unknown methods do not wait for it
    from pretrain.costs.memory import compare_methods, format_table
    from pretrain.costs.step_benchmark import add_measurements

    encoder = parse_encoder(args.encoder)
    report = compare_methods(encoder, methods, batch_size=args.batch_size, image_size=args.image_size,
                             recompute=args.recompute, autocast=args.autocast)
    if args.measured or args.timed:
        add_measurements(report, encoder, methods, memory=args.measured, seconds=args.timed)
    return report, format_table(report)


if __name__ == "__main__":
    main()
