"""The console's own files, read once: they come from here alone, and their pages may talk to here alone."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service.errors import answer

# Nothing of other sites, no script or style inside a page, and no text that becomes markup: what users store can be shown, not run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked about each time, and answered with 304 unless vecmeta was upgraded
}
KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


class Files:
    """All files of the console with their kinds and hashes, in memory: some 150 kB."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str, str]] = {}
        self._read(resources.files("service") / "console", "")

    def _read(self, folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                self._read(entry, f"{prefix}{entry.name}/")
            else:
                content = entry.read_bytes()
                suffix = "." + entry.name.rpartition(".")[2]
                kind = KINDS.get(suffix) or mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
                self._files[prefix + entry.name] = (
                    content,
                    f"{kind}; charset=utf-8",
                    f'"{hashlib.sha256(content).hexdigest()[:32]}"',
                )

    def answer(self, path: str, known: str | None) -> Response:
        """A file, or 304 if `known` is its hash, or 404."""
        found = self._files.get(path)
        if found is None:
            return answer(404, "not_found", "the console has no such file", HEADERS)
        content, kind, tag = found
        headers = {**HEADERS, "ETag": tag}
        if known == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers={**headers, "Content-Type": kind})


def install(app: FastAPI) -> None:
    """Serve the console at `/` and `/console`; its files need no key, what they ask for does."""
    files = Files()

    async def page(request: Request) -> Response:
        path = request.path_params.get("path", "")
        return files.answer(path or "index.html", request.headers.get("if-none-match"))

    for path in ("/", "/console", "/console/{path:path}"):
        app.add_route(path, page, methods=["GET"], include_in_schema=False)
