"""A server of files that can do all that servers do wrong."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Server(ThreadingHTTPServer):
    """Serves `files`: path → content.

    Attributes
    ----------
    breaks_off : dict of str to int
        Path → after how many bytes of an answer the connection is closed.
    answers : dict of str to list
        Path → codes and headers that are answered first, in turn.
    ranges, tags, tags_parts, looks_at_tags, tells_length : bool
        Whether parts of a file can be had, entity tags are sent, with parts too, ``If-Range`` is
        looked at, the length is sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks_off: dict[str, int] = {}
        self.answers: dict[str, list[tuple[int, dict[str, str]]]] = {}
        self.kinds: dict[str, str] = {}
        self.ranges = self.tags = self.looks_at_tags = True
        self.tells_length = self.tags_parts = True
        self.got: Counter[str] = Counter()
        self.asked_for: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def list_sums(self, folder: str, **wrong: str) -> None:
        """Write SHA256SUMS.txt of a folder."""
        lines = [
            f"{wrong.get(path) or hashlib.sha256(content).hexdigest()} {path.removeprefix(folder)}"
            for path, content in self.files.items()
            if path.startswith(folder) and not path.endswith("SHA256SUMS.txt")
        ]
        self.files[f"{folder}SHA256SUMS.txt"] = "\n".join(lines).encode() + b"\n"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_content=False)

    def do_GET(self) -> None:
        self.answer(with_content=True)

    def answer(self, with_content: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        server = self.server
        if urlsplit(self.path).query:
            path += f"?{urlsplit(self.path).query}"
        if with_content:
            server.got[path] += 1
            server.asked_for.append((path, self.headers.get("Range")))
            if first := server.answers.get(path):
                code, headers = first.pop(0)
                return self.send(code, b"", headers)
        if path not in server.files:
            return self.send(404, b"not here", {})
        content = server.files[path]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"Content-Type": server.kinds.get(path, "application/octet-stream")}
        headers |= {"ETag": tag} if server.tags else {}
        code, start = 200, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range", tag)
        if asked and server.ranges and (condition == tag or not server.looks_at_tags):
            start = int(asked[1])
            if start >= len(content):
                return self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            code = 206
            if not server.tags_parts:
                headers.pop("ETag")
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(code, content[start:] if with_content else content, headers, path, with_content)

    def send(
        self,
        code: int,
        content: bytes,
        headers: dict[str, str],
        path: str = "",
        with_content: bool = True,
    ) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(content)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if with_content:
            limit = self.server.breaks_off.get(path, len(content))
            self.wfile.write(content[:limit])
            if limit < len(content):
                self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""
