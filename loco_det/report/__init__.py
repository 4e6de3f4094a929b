"""One self-contained HTML file of an experiment: what was run, what came of it, and the commands that were typed."""

DEFAULT_GALLERY = 4  # validation images that are shown with detections
