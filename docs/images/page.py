"""Take the picture `docs/images/page.png`: the page of the service with both eyes of a patient.

    make demo
    python docs/tutorials/draw_images.py drawn --patients 15 --size 384 --table
    python docs/images/page.py results/demo/models/VGG16/bundle drawn 5

The committed picture has drawn images, of which no patient exists, and the small network of the test of the tutorials.
So its verdict means nothing.
"""

import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_name("page.png")
ADDRESS = "http://127.0.0.1:8124"


def take(bundle: Path, images: Path, patient: str) -> None:
    """Serve the bundle, grade both eyes of the patient in Chromium, and write the picture."""
    command = [sys.executable, "-m", "retinaflow", "serve", "--model", str(bundle)]
    service = subprocess.Popen([*command, "--port", ADDRESS.rpartition(":")[2]])
    try:
        _wait()
        with sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = chromium.new_page(viewport={"width": 1100, "height": 900})
            page.goto(ADDRESS)
            for eye in ("right", "left"):
                page.locator(f"#{eye}").set_input_files(images / f"{patient}_{eye}.jpeg")
            page.get_by_role("button", name="Grade").click()
            page.locator("article").nth(1).wait_for(timeout=300_000)
            page.screenshot(path=PICTURE, full_page=True)
            chromium.close()
    finally:
        service.terminate()
        service.wait()


def _wait() -> None:
    """Wait until the service answers, for five minutes at most."""
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{ADDRESS}/v1/health", timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise TimeoutError(f"{ADDRESS} does not answer")


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
