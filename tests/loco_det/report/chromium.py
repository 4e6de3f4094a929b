"""The browser that reports are looked at with: a Chromium that is installed, such as Debian's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
# No sandbox within containers; a fixed font rendering, so that screenshots of two machines are alike.
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--font-render-hinting=none")


def missing_browser() -> str | None:
    """Why no browser can be driven; None where one can."""
    if not any(map(shutil.which, NAMES)):
        return f"no browser is installed ({', '.join(NAMES)})"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None


@contextmanager
def headless_chromium() -> Iterator[Browser]:
    """Starts the browser and ends it."""
    from playwright.sync_api import sync_playwright

    file = next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=file, args=list(OPTIONS))
        yield browser
        browser.close()
