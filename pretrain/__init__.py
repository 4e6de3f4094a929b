"""Self-supervised pretraining with local learning rules (SimCLR, GIM, LoCo, any list of units).

The core (`local`, `heads`, `objectives`, `encoders`, `learner`) is plain torch; `run` puts it on mmengine's Runner. This
package never imports `loco_det` or mmdet.
"""

from importlib import import_module

__version__ = "0.1.0"
_EXPORTS = {  # imported when they are asked for: tools must not wait for torch to say that an option is wrong
    "LocalContrastiveLearner": "pretrain.learner",
    "ResNetEncoder": "pretrain.encoders",
    "TimmEncoder": "pretrain.encoders",
    "build_encoder": "pretrain.encoders",
    "export_backbone": "pretrain.engine.checkpoints",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'pretrain' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
