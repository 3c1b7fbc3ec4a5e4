"""What the browser fetches of an open case: planes and surfaces, by the key of the page that shows it."""

import zlib
from collections.abc import Callable

from fastapi import FastAPI, Response

from gui.viewer.opened import Layer, OpenedCase, OpenedCases
from seg_core.errors import LlsError
from seg_core.planes import Plane

# The page keeps its own slices; the browser's disk is no place for a patient.
_HEADERS = {"Cache-Control": "no-store"}
_BYTES = "application/octet-stream"
CLOSED = "this view has been closed: load the page again"


def register(app: FastAPI) -> OpenedCases:
    """Add the routes of the viewer, all below ``/viewer/``; called once at start.

    Returns
    -------
    OpenedCases
        What is open; to be left when the server ends.
    """
    cases = OpenedCases()
    app.state.viewer_cases = cases

    def answer(key: str, make: Callable[[OpenedCase], bytes], encoding: str | None = None) -> Response:
        case = cases.get(key)
        if case is None:
            return Response(CLOSED, 410, _HEADERS)
        try:
            data = make(case)
        except LlsError as error:
            return Response(error.found, 404, _HEADERS, "text/plain")
        headers = _HEADERS if encoding is None else _HEADERS | {"Content-Encoding": encoding}
        return Response(data, 200, headers, _BYTES)

    @app.get("/viewer/{key}/image/{plane}/{level}")
    def image(key: str, plane: Plane, level: int) -> Response:
        return answer(key, lambda case: case.image(plane, level))

    @app.get("/viewer/{key}/bone/{value}")
    def bone(key: str, value: int) -> Response:
        return answer(key, lambda case: case.bone(value))

    @app.get("/viewer/{key}/{layer}/{plane}/{level}")
    def labels(key: str, layer: Layer, plane: Plane, level: int) -> Response:
        return answer(key, lambda case: packed(case.labels(layer, plane, level)), "deflate")

    return cases


def packed(labels: bytes) -> bytes:
    """Return labels compressed: a few thousand bytes instead of a quarter of a megabyte."""
    return zlib.compress(labels, 1)
