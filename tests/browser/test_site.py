"""The documentation's site in a browser: it needs no network, can be searched, and fits a phone."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
SITE = Path(__file__).parents[2] / "build/site"
PAGES = ("index", "cookbook", "comparison", "errors", "reference/fitorch", "examples/digits")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    """Where the site is served."""
    if not (SITE / "index.html").is_file():
        pytest.skip("there is no site; make docs")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_search_finds_the_guide_and_the_reference(page, site):
    page.open(f"{site}/index.html?q=elastic")
    page.wait("document.querySelectorAll('.md-search-result__item').length > 1", 30)
    found = " ".join(page.texts(".md-search-result__item"))
    assert "Several processes" in found
    assert "KerasModel" in found or "fit" in found
    assert page.errors == []
    assert all(url.startswith(site) for url in page.requests if not url.startswith("data:"))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_and_asks_nobody_else(page, site, name):
    page.size(400, 800, phone=True)
    page.open(f"{site}/{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert all(width > 0 for width, _ in page.pictures("article img"))
    assert page.errors == []
    assert all(url.startswith(site) for url in page.requests if not url.startswith("data:"))


def test_it_follows_the_readers_colours(page, site):
    brightness = {}
    for dark in (False, True):
        page.size(1200, 800, dark=dark)
        page.open(f"{site}/metrics.html")
        brightness[dark] = float(page.look("article").mean())
    assert brightness[True] < 0.4 < 0.8 < brightness[False]
