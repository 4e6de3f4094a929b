"""Runner hooks of detection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

RECORD_KEY = "detection"  # where a detector's checkpoint keeps its record


@HOOKS.register_module()
class DetectorRecordHook(Hook):
    """Writes into every checkpoint what it is one of.

    Args:
        record: plain data: ``encoder``, ``classes``, ``method``, ``split`` and hashes, see :mod:`loco_det.experiment`.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = json.loads(json.dumps(record))  # ConfigDict -> dict

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """See :class:`mmengine.hooks.Hook`."""
        checkpoint[RECORD_KEY] = self.record
