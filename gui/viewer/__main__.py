"""``python -m gui.viewer SCAN [LABELS]``: the viewer alone, for development and tests."""

import argparse
from contextlib import suppress
from pathlib import Path

from nicegui import app, ui

from gui.viewer.case import Case
from gui.viewer.element import show
from gui.viewer.routes import register


def main() -> None:
    """Show one scan on 127.0.0.1."""
    parser = argparse.ArgumentParser(prog="python -m gui.viewer", description=main.__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("labels", type=Path, nargs="?", help="label map on the scan's grid")
    parser.add_argument("--other", type=Path, help="a second label map, to compare with")
    parser.add_argument(
        "--corrections", type=Path, help="folder for corrected label maps; without: no painting"
    )
    parser.add_argument("--name", default="scan")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    case = Case(given.name, given.scan, None, given.labels, given.other)
    if given.corrections is not None:
        given.corrections.mkdir(parents=True, exist_ok=True)
    app.on_shutdown(register(app).leave_all)

    @ui.page("/", title="lls viewer", dark=given.dark)
    def page() -> None:
        ui.query(".nicegui-content").style("height: 100vh; padding: 10px")
        show(case, corrections=given.corrections)

    ui.run(host="127.0.0.1", port=given.port, show=False, reload=False, reconnect_timeout=60)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # Ctrl+C is how it is ended
        main()
