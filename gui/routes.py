"""What is not a page: pictures, downloads, and files that are dropped."""

import shutil
import tempfile
import zipfile
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect

from gui.desk import Desk
from gui.requests import CORRECTIONS, RESULT
from seg_core.errors import LlsError


def add_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes to the server."""
    app.add_static_files("/assets", Path(__file__).parent / "assets")  # type: ignore[attr-defined]

    @app.post("/drop")
    def begin_drop() -> JSONResponse:
        return JSONResponse({"drop": desk.uploads.begin()})

    @app.post("/drop/{drop}")
    async def drop_file(drop: str, name: str, request: Request) -> Response:
        try:
            await desk.uploads.receive(drop, name, request.stream())
        except LlsError as error:
            return PlainTextResponse(str(error), 413)
        except ClientDisconnect:
            return PlainTextResponse("stopped", 400)
        return JSONResponse({})

    @app.get("/job/{number}/file/{name}")
    def job_file(number: int, name: str, download: bool = False) -> FileResponse:
        path = _inside(_folder(desk, number) / RESULT, name)
        return FileResponse(path, filename=path.name if download else None)

    @app.get("/job/{number}/correction/{name}")
    def correction(number: int, name: str) -> FileResponse:
        path = _inside(_folder(desk, number) / CORRECTIONS, name)
        return FileResponse(path, filename=path.name)

    @app.get("/job/{number}/all.zip")
    def job_zip(number: int) -> FileResponse:
        folder = _folder(desk, number)
        temporary = Path(tempfile.mkdtemp(prefix="zip-", dir=folder))
        packed = temporary / "all.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:  # labels are compressed as they are
            for part in (RESULT, CORRECTIONS):
                for file in sorted((folder / part).glob("*")):
                    if file.is_file() and not file.name.startswith("."):
                        archive.write(file, file.name)
        remove = BackgroundTask(shutil.rmtree, temporary, ignore_errors=True)
        return FileResponse(packed, filename=f"lls-result-{number}.zip", background=remove)

    @app.get("/dataset/{dataset}/{subject}/quality.png")
    def quality(dataset: str, subject: str) -> FileResponse:
        root = desk.store.root / "datasets"
        return FileResponse(_inside(root, f"{dataset}/{subject}/quality.png"))


def _folder(desk: Desk, number: int) -> Path:
    job = desk.store.get(number)
    if job is None:
        raise HTTPException(404)
    return desk.store.folder(job)


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise HTTPException(404)
    return path
