"""Images per second of our SimCLR beside lightly's and solo-learn's on this machine's CPU, as JSON.

    python tools/benchmark_step.py --batch-size 64 --image-size 64 --rounds 12
    python tools/benchmark_step.py --encoder resnet50 --image-size 96 --data-root my/images

The other libraries are no dependency of this project. They go into an environment of their own, which runs this tool from
the project's root:

    python3.11 -m venv speed_env
    speed_env/bin/pip install -c constraints.txt torch torchvision onedl-mmengine timm pycocotools opencv-python-headless
    speed_env/bin/pip install -c constraints.txt lightly
    speed_env/bin/pip install --no-deps solo-learn lightning-bolts
    speed_env/bin/pip install -c constraints.txt pytorch-lightning==1.9.5 torchmetrics einops scipy

Measured are the step alone on views in memory, the views alone from files, and both. Libraries take turns; ours_to_this is
our images a second to theirs, the median over the rounds. Ours runs once more in channels-last layout and bfloat16,
faster or slower than in float32, depending on the processor. Without --data-root, JPEGs are drawn.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not tools/, where pretrain.py would hide the package

from pretrain.engine.cli import command, tool_parser


@command
def main() -> str:
    parser = tool_parser(__doc__)
    parser.add_argument("--encoder", default="resnet18", metavar="NAME", help="resnet18 or resnet50 (default: resnet18)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images (default: 64)")
    parser.add_argument("--image-size", type=int, default=64, metavar="PX", help="side of the views (default: 64)")
    parser.add_argument("--rounds", type=int, default=12, metavar="N", help="measurements a library (default: 12)")
    parser.add_argument("--epoch-batches", type=int, default=4, metavar="N", help="batches of an epoch (default: 4)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="loader processes (default: 1)")
    parser.add_argument("--data-root", metavar="DIR", help="folder of images (default: drawn JPEGs of 384 x 384)")
    parser.add_argument("--against", nargs="*", default=["lightly", "solo-learn"], metavar="LIBRARY",
                        help="lightly and solo-learn by default; without a name, ours alone")
    args = parser.parse_args()
    from pretrain.costs.library_benchmark import BenchmarkConfig, compare_libraries, draw_images, link_images, make_runs

    config = BenchmarkConfig(args.encoder, args.batch_size, args.image_size, args.rounds, args.epoch_batches, args.workers)
    make_runs(config, args.against)  # what is not installed is told before images are drawn
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        link_images(images, args.data_root, config) if args.data_root else draw_images(images, config)
        return json.dumps(compare_libraries(config, args.against, images), indent=2)


if __name__ == "__main__":
    main()
