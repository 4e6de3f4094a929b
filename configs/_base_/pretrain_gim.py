# Greedy InfoMax: one loss per stage, no gradient between stages (LoCo, section 3.2).
model = dict(
    type="LocalContrastiveLearner",
    rule=dict(type="gim"),
    head=dict(conv_blocks=0, mlp_layers=2, out_channels=128),  # LoCo, section 5.1 and Table 4 ("None", local)
    objective=dict(type="NTXent", temperature=0.1),  # ours: LoCo does not state it
)
