# LoCo: every loss reaches its own stage and the one below (LoCo, section 4.1).
model = dict(
    type="LocalContrastiveLearner",
    rule=dict(type="loco"),
    head=dict(conv_blocks=1, downsample=True, mlp_layers=2, out_channels=128),  # LoCo, section 5.4: one conv block
    objective=dict(type="NTXent", temperature=0.1),  # ours: LoCo does not state it
)
