"""Take the picture `docs/images/report.png`: the ROC curve of a model in the report.

    make report
    python docs/images/report.py results/report.html InceptionV3

The committed picture has InceptionV3 at 128 px on 1,400 EyePACS images, after 15 epochs of the head and one of the
network. It shows no image of a patient.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_name("report.png")


def take(report: Path, model: str) -> None:
    """Open the figure of ``model`` on validation in Chromium, and write the picture."""
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1400, "height": 800})
        page.goto(report.resolve().as_uri())
        for name in ("Models", model):
            link = page.get_by_role("link", name=name, exact=True)
            # With one model, the report skips the list of models.
            if link.count():
                link.click()
        row = page.locator("nav tbody tr", has_text="ROC").filter(has_text="validation")
        row.locator("a").first.click()
        page.locator("#app img:not(nav img)").evaluate("element => element.decode()")
        page.screenshot(path=PICTURE)
        chromium.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]), sys.argv[2])
