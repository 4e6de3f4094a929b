"""Packages of LoCo-Det; the tested versions are in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="loco-det",
    version="0.1.0",
    description="Local self-supervised learning of visual backbones (LoCo, GIM, SimCLR) and their transfer to Mask R-CNN",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["pretrain", "pretrain.*", "loco_det", "loco_det.*"]),
    package_data={"loco_det.report": ["templates/*"], "pretrain.results": ["papers/*.json"]},
    python_requires=">=3.10",
    # The onedl forks keep the import names mmengine, mmcv and mmdet and follow current torch; the originals stopped in 2024.
    install_requires=[
        "torch>=2.6,<3",
        "torchvision>=0.21,<1",
        "onedl-mmengine>=0.10.12,<0.11",
        "onedl-mmcv>=2.3.6,<2.4",
        "onedl-mmdetection>=3.5.1,<3.6",
        "pycocotools>=2.0.8,<3",
        "faster-coco-eval>=1.8,<1.9",  # the numbers of 1.8.0 are proven to be pycocotools'
        "cityscapesscripts>=2.2.4,<3",
        "timm>=1.0.9,<2",
        "numpy>=1.26,<2.4",  # cityscapesscripts uses np.in1d, gone in 2.4
        "opencv-python>=4.9,<5",
        "Pillow>=10,<13",
        "tqdm>=4.66,<5",
        "tensorboard>=2.18,<3",
        "matplotlib>=3.8,<4",
        "scikit-learn>=1.5,<2",  # logistic regression, t-SNE, silhouettes
        "pandas>=2.2,<4",  # rows of results
        "threadpoolctl>=3.1,<4",
        "Jinja2>=3.1,<4",
    ],
    extras_require={"dev": ["pytest>=8,<10", "pytest-xdist>=3.6,<4", "ruff>=0.6,<1"]},
)
