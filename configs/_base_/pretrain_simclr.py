# SimCLR: one loss, end to end (LoCo, section 3.1).
model = dict(
    type="LocalContrastiveLearner",
    rule=dict(type="simclr"),
    head=dict(conv_blocks=0),  # LoCo, section 5.1 and Table 4 ("None"); MLP of the objective, 2 layers to 128
    objective=dict(type="NTXent", temperature=0.1),  # ours: LoCo does not state it
)
