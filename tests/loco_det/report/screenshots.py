"""Makes the two pictures of a report that are in docs/ again.

    python tests/loco_det/report/screenshots.py work_dirs/demo/report.html docs

Writes the beginning of the page as report_desktop.png (1280 pixels wide, light) and report_phone.png (390 wide, dark) into
the folder. Needs playwright and an installed Chromium. Prints the files.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[3])  # the project's root, for the package of tests

from PIL import Image  # noqa: E402

from tests.loco_det.report.chromium import headless_chromium  # noqa: E402

# name -> size of the picture, and colour scheme
PICTURES = {
    "report_desktop": (1280, 1400, "light"),
    "report_phone": (390, 2200, "dark"),
}
COLORS = 256  # of the files' palettes: a third of the bytes, and no difference to see


def main() -> None:
    report, folder = map(Path, sys.argv[1:])
    with headless_chromium() as browser:
        for name, (width, height, scheme) in PICTURES.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(report.resolve().as_uri())
            pixels = page.screenshot()
            file = folder / f"{name}.png"
            image = Image.open(io.BytesIO(pixels)).convert("RGB")
            image.quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)
            print(file)


if __name__ == "__main__":
    main()
