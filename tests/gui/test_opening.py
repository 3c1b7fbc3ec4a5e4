"""How the page is opened in a browser."""

import asyncio
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

pytest.importorskip("nicegui", reason="the extra gui is not installed")

from gui import app

ADDRESS = "http://127.0.0.1:8123/?token=secret"


def test_the_browser_is_told_no_secret_and_the_file_that_holds_it_is_the_users_alone(tmp_path, monkeypatch):
    opened = []

    def browser(address):
        file = Path(url2pathname(urlsplit(address).path))
        opened.append((address, stat.S_IMODE(file.stat().st_mode), file.read_text(encoding="utf-8")))

    monkeypatch.setattr("webbrowser.open", browser)
    monkeypatch.setattr(app, "_OPENING", 0)
    asyncio.run(app.open_browser(ADDRESS, tmp_path))
    ((address, mode, text),) = opened
    assert address.startswith("file://")
    assert "secret" not in address
    assert f'url={ADDRESS}"' in text
    assert sys.platform == "win32" or mode == 0o600
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_ends_soon_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda address: True)

    async def ended():
        opening = asyncio.create_task(app.open_browser(ADDRESS, tmp_path))
        while not list(tmp_path.iterdir()):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])

    asyncio.run(ended())
    assert list(tmp_path.iterdir()) == []
