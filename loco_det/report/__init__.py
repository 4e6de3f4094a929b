"""One self-contained HTML file of an experiment: what was run, its results and command lines."""

DEFAULT_GALLERY = 4  # validation images that are shown with detections
