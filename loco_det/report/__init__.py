"""One self-contained HTML file of an experiment: what was run, what came of it, and how to get every number again."""

DEFAULT_GALLERY = 4  # validation images that are shown with detections
