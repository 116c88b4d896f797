"""The audit of dependencies finds a planted vulnerable version, by an answer in OSV's form, and
says so where it was not answered."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

AUDIT = Path(__file__).parents[1] / ".ci" / "audit"
DEADLINE_S = 30.0
NOT_ANSWERED = 3

ANSWERS = {
    ("jinja2", "2.4.1"): ["GHSA-462w-v97r-4m45", "GHSA-g3rq-g295-4j3m"],
    ("msgspec", "0.19.0"): [],
}
"""Identifiers as OSV has them, and what it would say of these versions."""


@contextmanager
def database(*, pages: bool = False, broken: bool = False) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            results = [self.answer(one) for one in asked]
            body = b"<html>" if broken else json.dumps({"results": results}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def answer(self, one: dict[str, Any]) -> dict[str, Any]:
            ids = ANSWERS[one["package"]["name"], one["version"]]
            vulns = [{"id": name, "modified": "2024-09-20T15:00:00Z"} for name in ids]
            if not pages or not vulns:
                return {"vulns": vulns} if vulns else {}
            if "page_token" in one:
                return {"vulns": vulns[1:]}
            return {"vulns": vulns[:1], "next_page_token": "x"}

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/querybatch"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def installed(folder: Path, *packages: tuple[str, str]) -> Path:
    for name, version in packages:
        about = folder / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    return folder


def audit(url: str, path: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, AUDIT, "--url", url, "--path", path],
        check=False, capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_planted_vulnerable_version_is_found(tmp_path: Path) -> None:
    path = installed(tmp_path, ("jinja2", "2.4.1"), ("msgspec", "0.19.0"))
    for pages in (False, True):
        with database(pages=pages) as url:
            code, said = audit(url, path)
        assert code == 1
        assert all(f"jinja2 2.4.1: {name}" in said for name in ANSWERS["jinja2", "2.4.1"])
        assert "msgspec 0.19.0" not in said


def test_packages_of_which_none_is_known_pass(tmp_path: Path) -> None:
    with database() as url:
        code, said = audit(url, installed(tmp_path, ("msgspec", "0.19.0")))
    assert (code, said.strip()) == (0, "audit: 1 packages, 0 known vulnerabilities")


def test_no_answer_is_not_a_good_one(tmp_path: Path) -> None:
    path = installed(tmp_path, ("jinja2", "2.4.1"))
    with database() as url:
        pass  # it is gone by now
    assert audit(url, path)[0] == NOT_ANSWERED
    with database(broken=True) as url:
        assert audit(url, path)[0] == NOT_ANSWERED
