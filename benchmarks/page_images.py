"""Pictures of the server's page, as docs/serve.md shows them: light, dark, two depths, narrow.

    python benchmarks/page_images.py CKPT [--out docs/images] [--prompt TEXT]

It serves the model on a free port, opens the page in headless Chromium (extra `browser`, and
Debian's `chromium` or another that --browser names) and lets it write with fixed seeds.
"""

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from open_mythos.cli.opening import open_checkpoint
from open_mythos.serve.server import build_server
from open_mythos.serve.service import Served, Service
from open_mythos.serve.settings import ServeConfig


PROMPT = "It was late when the captain came down to the shore, and"
# Name, width, height, theme, loops of each side.
PICTURES = [
    ("page-light", 1280, 900, "light", [8]),
    ("page-dark", 1280, 900, "dark", [8]),
    ("page-compare", 1280, 900, "light", [8, 2]),
    ("page-narrow", 420, 900, "dark", [8]),
]


@contextmanager
def serving(checkpoint: Path) -> Iterator[str]:
    opened = open_checkpoint(checkpoint, "cpu")
    served = Served(checkpoint.resolve().name, opened.model, opened.tokenizer)
    server = build_server(Service(served, ServeConfig(port=0)))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def write(page: Page, url: str, prompt: str, loops: list[int], seed: int) -> None:
    page.goto(url)
    page.get_by_text("Ready.").wait_for()
    page.fill("#prompt", prompt)
    page.click("summary:has-text('How it writes')")
    page.fill("#seed", str(seed))
    page.click("summary:has-text('How it writes')")
    if len(loops) > 1:
        page.check("#compare")
    for side, number in zip("ab", loops, strict=False):
        page.locator(f"#loops-{side}").evaluate(
            "(dial, n) => { dial.value = n; dial.dispatchEvent(new Event('input')); }", number
        )
    page.click("#write")
    for side, _ in zip("ab", loops, strict=False):
        page.locator(f"#pane-{side} .lens table").wait_for(timeout=120_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    told = parser.parse_args()
    with serving(told.checkpoint) as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=told.browser, args=["--no-sandbox"])
        for name, width, height, theme, loops in PICTURES:
            how: dict[str, Any] = {"viewport": {"width": width, "height": height}}
            context = browser.new_context(color_scheme=theme, **how)
            page = context.new_page()
            write(page, url, told.prompt, loops, told.seed)
            path = told.out / f"{name}.png"
            picture = Image.open(BytesIO(page.screenshot(full_page=True)))
            picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
            context.close()
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
