# LoCo: every loss reaches its own stage and the one below (LoCo, section 4.1).
model = dict(
    type="LocalContrastiveLearner",
    rule=dict(type="loco"),
    head=dict(conv_blocks=1),  # LoCo, section 5.4: one conv block; MLP of the objective, 2 layers to 128
    objective=dict(type="NTXent", temperature=0.1),  # ours: LoCo does not state it
)
