"""The detector in one of many processes, each with its share of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from pretrain.distributed.sync_batchnorm import replace_sync_batchnorm


@MODEL_WRAPPERS.register_module()
class DataParallelDetector(MMDistributedDataParallel):
    """mmengine's wrapper of torch's DistributedDataParallel that also serves processes on CPUs.

    On CUDA it is what mmengine would take. On CPUs torch's SyncBatchNorm raises, so batch norms of that class are replaced
    by :class:`pretrain.distributed.sync_batchnorm.CrossProcessBatchNorm`, which has the same numbers. Buffers are not
    broadcast: synchronised ones are equal anyway, frozen ones do not change.

    Args:
        module: the detector, on its device.
        device_ids: what mmengine's Runner passes; not used on CPUs.
    """

    def __init__(self, module: nn.Module, device_ids: Sequence[int] | None = None) -> None:
        if next(module.parameters()).device.type == "cpu":
            module, device_ids = replace_sync_batchnorm(module), None
        super().__init__(module, device_ids=device_ids, broadcast_buffers=False)
