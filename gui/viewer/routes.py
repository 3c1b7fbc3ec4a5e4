"""What the browser fetches of an open case: planes and surfaces, by the key of the page that shows it."""

import zlib
from collections.abc import Callable

from fastapi import FastAPI, Response

from gui.viewer.opened import Layer, OpenedCase, OpenedCases
from gui.viewer.planes import Plane
from seg_core.errors import LlsError

_HEADERS = {
    "Cache-Control": "no-store"
}  # the page keeps its own; the browser's disk is no place for a patient

_BYTES = "application/octet-stream"


def register(app: FastAPI) -> None:
    """Add the routes of the viewer, all below ``/viewer/``; called once at start."""
    cases = OpenedCases()
    app.state.viewer_cases = cases

    def answer(key: str, make: Callable[[OpenedCase], bytes], packed: bool = False) -> Response:
        case = cases.get(key)
        if case is None:
            return Response("this view has been closed: load the page again", 410, _HEADERS)
        try:
            data = make(case)
        except LlsError as error:
            return Response(error.found, 404, _HEADERS, "text/plain")
        if not packed:
            return Response(data, 200, _HEADERS, _BYTES)
        return Response(zlib.compress(data, 1), 200, _HEADERS | {"Content-Encoding": "deflate"}, _BYTES)

    @app.get("/viewer/{key}/image/{plane}/{level}")
    def image(key: str, plane: Plane, level: int) -> Response:
        return answer(key, lambda case: case.image(plane, level))

    @app.get("/viewer/{key}/bone/{value}")
    def bone(key: str, value: int) -> Response:
        return answer(key, lambda case: case.bone(value))

    @app.get("/viewer/{key}/{layer}/{plane}/{level}")
    def labels(key: str, layer: Layer, plane: Plane, level: int) -> Response:
        # A few hundred bytes instead of a quarter of a megabyte.
        return answer(key, lambda case: case.labels(layer, plane, level), packed=True)
