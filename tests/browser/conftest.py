"""A browser for the tests that look at pages."""

import pytest

from browser.chromium import Chromium


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def page(chromium):
    page = chromium.page()
    page.size(1200, 1000)
    yield page
    page.close()
