# Mask R-CNN as in LoCo, section 5.2: mmdet's, with the 4conv-1fc box head and a normalisation after every new convolution of
# FPN, box head and mask head (not of the RPN head, which section 5.2 does not name and mmdet shares over pyramid levels).
# What the values below, the data and the encoder decide is filled in when the run starts (loco_det.experiment.config):
# layers of normalisation, class count, the FPN's input channels, paths.
_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py"]

new_layer_norm = "SyncBN"  # section 5.2; "GN" or "none" shows its effect
autocast = None  # or "bfloat16", "float16"; the paper names no precision, so float32
channels_last = False
model = dict(
    type="TransferMaskRCNN",
    data_preprocessor=dict(non_blocking=True),  # from pinned memory, where the data loader pins it
    backbone=dict(
        _delete_=True,
        type="PretrainedEncoder",
        encoder=dict(type="resnet50"),
        frozen_stages="all",  # section 5.2: "we freeze the pretrained backbone network"
        norm_eval=True,
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(type="Float32RoIExtractor"),  # mmdet's, which autocast does not let round boxes
        mask_roi_extractor=dict(type="Float32RoIExtractor"),
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", conv_out_channels=256),  # section 5.2: "4conv-1fc box head"
    ),
)
