"""Self-supervised pretraining with local learning rules (SimCLR, GIM, LoCo, any list of units).

The core (`local_units`, `local_backprop`, `heads`, `losses`, `encoders`) is plain torch; `learner` and `run` put it on
mmengine's Runner. This package never imports `loco_det` or mmdet.
"""

__version__ = "0.1.0"
