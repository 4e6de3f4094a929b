# What PResNet-50 needs as a backbone of Mask R-CNN; the papers transfer none, the choice is ours. Its stages have strides 4,
# 6.2, 9.3, 14, 18.7 and 28; the pyramid takes those nearest to its own strides and resizes them bilinearly, as PResNet does.
presnet50 = dict(
    encoder=dict(type="presnet50"), out_stages=("res2", "res4", "res5", "res7"), out_strides=(4, 8, 16, 32)
)
