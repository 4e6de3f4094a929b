"""Review 3: GIM "trained sequentially", each unit to its end before the next begins; not in the paper."""
_base_ = ["../gim_resnet50_imagenet.py"]
epochs_per_unit = 100  # every unit as long as in simultaneous training
train_cfg = dict(max_epochs=4 * epochs_per_unit)
param_scheduler = [  # every unit's 100 epochs: a cosine, times 10 epochs of linear warm-up
    dict(type="CosineRestartLR", periods=[epochs_per_unit] * 4, restart_weights=[1] * 4, eta_min=0, by_epoch=True,
         convert_to_iter_based=True),
    *(dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=begin, end=begin + 10, convert_to_iter_based=True)
      for begin in range(0, 4 * epochs_per_unit, epochs_per_unit)),
]
custom_hooks = [*_base_.custom_hooks, dict(type="SequentialUnitsHook", epochs_per_unit=epochs_per_unit)]
