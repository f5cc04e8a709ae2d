"""A headless browser under playwright: `browser.py CHROMIUM URL…` reads pages and prints how long their texts are."""

from __future__ import annotations

import sys

from playwright.sync_api import sync_playwright

# A sandbox has root and no user namespaces of its own to give; nothing here is to ask the vendor for anything.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-proxy-server",
]


def main(chromium: str, *urls: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS, headless=True)
        page = browser.new_context(ignore_https_errors=True).new_page()
        for url in urls:
            page.goto(url, timeout=30_000)
            print(page.evaluate("document.body.innerText.trim().length"))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
