"""Photograph a report: scripts/screenshot.py REPORT.html PICTURE.webp."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = {"width": 1280, "height": 960}
LAYER = "bn2"  # the last hidden layer


def main(page_file: Path, picture: Path) -> None:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(page_file.resolve().as_uri())
        page.wait_for_selector("body[data-ready]")
        page.select_option("#layer", label=LAYER)
        page.evaluate("document.getElementById('units').scrollIntoView()")
        page.wait_for_timeout(1000)  # the pictures in view
        shot = page.screenshot()
        browser.close()
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(shot)).convert("RGB").save(picture, "WEBP", quality=80, method=6)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
