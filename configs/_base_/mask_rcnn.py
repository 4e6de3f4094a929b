# Mask R-CNN as in LoCo, section 5.2: SyncBN after every new layer of FPN, box head and mask head (not in the RPN head, which
# mmdet shares over pyramid levels without normalisation), and the 4conv-1fc box head. The class count, the FPN's input
# channels and the paths come from the data and the encoder when the run starts (loco_det.experiment).
_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py"]

norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    backbone=dict(
        _delete_=True,
        type="PretrainedEncoder",
        encoder=dict(type="resnet50"),
        frozen_stages=4,  # LoCo, section 5.2: "we freeze the pretrained backbone network"
        norm_eval=True,
    ),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
