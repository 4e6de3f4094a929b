"""Shows dimensional collapse in a linear model, and how subsampling prevents it (Subsampling, section 3.2 and figure 1a).

    python tools/toy_collapse.py
    python tools/toy_collapse.py --thresholds 0.0 0.4 0.8 --seed 1 --format json

Always trains without a threshold, too, until every singular value changes by less than 1 % in 100 steps or steps run out.
Singular values are those of the covariance of the normalised representations, the largest being 1; kept shares are those at
the end, losses means over the first and the last 50 steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import command, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.0, 0.6, 0.75, 0.8, 0.9], metavar="T",
                        help="cosine similarities, -1 to 1, below which pairs are dropped (default: 0.0 0.6 0.75 0.8 0.9)")
    parser.add_argument("--dim", type=int, default=16, metavar="D", help="dimensions, half noisy (default: %(default)s)")
    parser.add_argument("--sigma", type=float, default=1.5, help="standard deviation of the noise (default: %(default)s)")
    parser.add_argument("--points", type=int, default=256, metavar="N", help="points of two views (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000,
                        help="of gradient descent at most, 50 or more (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3.0, help="of gradient descent (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.5, help="of the loss (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of points, noise and start (default: %(default)s)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    args = parser.parse_args()
    from pretrain.eval.toy_collapse import ToyProblem, compare_thresholds, format_table

    problem = ToyProblem(args.dim, args.sigma, args.points, args.steps, args.learning_rate, args.temperature, args.seed)
    results = compare_thresholds(problem, args.thresholds)
    if args.format == "json":
        return json.dumps({name: result.as_dict() for name, result in results.items()}, indent=2, allow_nan=False)
    return format_table(problem, results)


if __name__ == "__main__":
    main()
