# SimCLR: one loss, end to end (LoCo, section 3.1).
model = dict(
    type="LocalContrastiveLearner",
    rule=dict(type="simclr"),
    head=dict(conv_blocks=0, mlp_layers=2, out_channels=128),  # LoCo, section 5.1 and Table 4 ("None")
    objective=dict(type="NTXent", temperature=0.1),  # ours: LoCo does not state it
)
