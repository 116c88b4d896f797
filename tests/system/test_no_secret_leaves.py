"""Secrets pushed in wherever a client may say something come out nowhere: not in an answer, an
error, a log, an export, a metric, health, a copy, nor in any byte of any file."""

import base64
import contextlib
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palyra_actors.api.events import new_id
from palyra_actors.keys import KeyFolder, read_client_key
from tests.figures import Tell
from tests.system.harness import DEADLINE_S, Wire, curve, event, pack

MARKS = [f"canary{number}qzx7" for number in range(10)]
"""Each is a word of its own, so that an index of words would hold it whole."""

JWT = ".".join(
    base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")
    for part in ('{"alg":"HS256"}', '{"sub":"1234567890"}')
)
TEXTS = [
    f"password={MARKS[0]}",
    f"Authorization: Bearer {MARKS[1]}",
    f"sk-{MARKS[2]}abcdef",
    f"ghp_{MARKS[3]}abcdef",
    f"https://user:{MARKS[4]}@example.com/",
    f"{JWT}.{MARKS[5]}",
    f"-----BEGIN PRIVATE KEY-----\n{MARKS[6]}\n-----END PRIVATE KEY-----",
    f"API_KEY: {MARKS[7]}",
]
TEXT = " and ".join(TEXTS)
VALUE: dict[str, Any] = {
    "api_key": MARKS[8],
    "deep": [{"Client-Secret": {"x": [MARKS[9]]}}],
    **{f"text{n}": text for n, text in enumerate(TEXTS)},
    TEXTS[0]: 1,
}
FOUND = re.compile("|".join(MARKS), re.IGNORECASE)


class Served:
    """An engine with everything on: keys, metrics, JSON logs at their most talkative."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = KeyFolder(folder / "keys")
        for name, role in (("ada", "admin"), ("walt", "writer"), ("reed", "reader")):
            self.keys.new(name, role)  # type: ignore[arg-type]
        config = folder / "engine.toml"
        config.write_text('[log]\nlevel = "debug"\nformat = "json"\n[budget]\nwrite_ms = 0\n')
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "palyra_actors.cli", "serve", "--config", str(config)),
                *("--db", str(folder / "journal.db"), "--keys", str(self.keys.path)),
                *("--endpoint", "tcp://127.0.0.1:0", "--metrics", "127.0.0.1:0"),
            ],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        self.endpoint = self.ready.split("endpoint=")[1].split()[0]
        self.said: list[Any] = [self.ready]

    def wire(self, name: str) -> Wire:
        return Wire(self.endpoint, **curve(self.keys.secrets / f"{name}.secret"))

    def metrics(self) -> str:
        address = re.search(rb"http://[0-9.:]+[0-9a-z/]*", (self.folder / "log").read_bytes())
        assert address is not None
        with urllib.request.urlopen(address[0].decode(), timeout=DEADLINE_S) as answer:
            return str(answer.read().decode())

    def command(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "palyra_actors.cli", *words],
            capture_output=True,
            timeout=DEADLINE_S * 2,
            check=False,
            text=True,
        )
        return done.stdout + done.stderr

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(DEADLINE_S) == 0
        assert self.process.stdout is not None
        self.said.append(self.process.stdout.read())
        self.process.stdout.close()
        self.log.close()
        self.said.append((self.folder / "log").read_text())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    opened = Served(tmp_path)
    yield opened
    with contextlib.suppress(ProcessLookupError):
        opened.process.kill()
        opened.process.wait()
    if opened.process.stdout is not None:
        opened.process.stdout.close()
    opened.log.close()


def _writes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every place where a client's own words are kept, filled with secrets."""
    session, run, canvas, job, memory = (new_id() for _ in range(5))
    one = event(session, run_id=run, payload=VALUE)
    yield "journal.append", {"events": [one, event(session, kind="model_token", payload=VALUE)]}
    yield "session.resolve", {"session_id": new_id(), "title": TEXT}
    yield "session.resolve", {"session_key": TEXTS[0]}
    yield "session.update", {"session_id": session, "title": TEXT}
    started = new_id()
    yield "run.start", {"run_id": started, "session_id": session}
    yield "run.transition", {"run_id": started, "to": "in_progress", "reason": TEXT}
    yield "run.cancel", {"run_id": started, "reason": TEXT}
    for number in range(2):
        approval = new_id()
        yield (
            "approval.request",
            {
                "approval_id": approval,
                "session_id": session,
                "subject_type": "tool",
                "subject_id": "shell" if number else TEXTS[0],
                "summary": TEXT,
                "prompt": VALUE,
                "policy": VALUE,
            },
        )
        yield (
            "approval.decide",
            {"approval_id": approval, "decision": "deny", "reason": TEXT},
        )
    yield "canvas.create", {"canvas_id": canvas, "session_id": session, "state": VALUE}
    patch = [{"op": "add", "path": "/more", "value": VALUE}]
    yield "canvas.patch", {"canvas_id": canvas, "expected_version": 1, "patch": patch}
    yield "canvas.replace", {"canvas_id": canvas, "expected_version": 2, "state": VALUE}
    yield "canvas.get", {"canvas_id": canvas}
    yield "canvas.history", {"canvas_id": canvas}
    yield "canvas.close", {"canvas_id": canvas, "reason": TEXT}
    schedule = {"every_ms": 86_400_000}
    yield "cron.create", {"job_id": job, "name": "x", "schedule": schedule, "payload": VALUE}
    yield "cron.create", {"name": TEXTS[0], "schedule": schedule, "payload": VALUE}
    yield "cron.run_now", {"job_id": job}
    yield "cron.runs", {"job_id": job}
    yield "memory.ingest", {"memory_id": memory, "source": "manual", "content": TEXT}
    yield "memory.ingest", {"source": "manual", "content": "x", "channel": TEXTS[0]}
    yield "memory.update", {"memory_id": memory, "content": TEXT + " again"}
    yield "memory.list", {}
    yield "memory.search", {"query": "password and Bearer"}
    yield "journal.read", {"limit": 1000}
    yield "session.history", {"session_id": session, "raw": True}
    yield "run.tape", {"run_id": run}
    yield "session.list", {"query": "password"}
    yield "approval.list", {}
    yield "engine.health", {}
    yield "engine.stats", {}


def _mistakes() -> Iterator[dict[str, Any]]:
    """Envelopes that are refused, with a secret in each place that an error might quote."""
    for secret in TEXTS[:3]:
        yield {"op": secret}
        yield {"op": "journal.head", "traceparent": secret}
        yield {"op": "journal.head", "principal": secret}
        yield {"op": "journal.head", "body": {secret: 1}}
        yield {"op": "journal.append", "body": {"events": [event(secret)]}}
        yield {"op": "journal.append", "body": {"events": [event(new_id(), kind=secret)]}}
        yield {"op": "journal.append", "body": {"events": [event(new_id(), actor=secret)]}}
        yield {"op": "journal.append", "body": {"events": [event(new_id(), **{secret: 1})]}}
        yield {"op": "journal.append", "body": {"events": [event(new_id(), payload=secret)]}}
        deep: Any = {secret: float("inf")}
        yield {"op": "journal.append", "body": {"events": [event(new_id(), payload=deep)]}}
        yield {"op": "journal.read", "body": {"kinds": [secret]}}
        yield {"op": "session.list", "body": {"status": secret}}
        yield {"op": "run.transition", "body": {"run_id": new_id(), "to": secret}}
        yield {"op": "cron.explain", "body": {"schedule": {"cron": secret}}}
        yield {"op": "cron.explain", "body": {"schedule": {"cron": "* * * * *", "tz": secret}}}
        yield {"op": "cron.create", "body": {"name": secret, "schedule": {}}}
        yield {"op": "memory.ingest", "body": {"source": secret, "content": "x"}}
        tags = {"source": "manual", "content": "x", "tags": [secret]}
        yield {"op": "memory.ingest", "body": tags}
        yield {"op": "memory.search", "body": {"query": secret, "mode": secret}}
        state = {"canvas_id": new_id(), "session_id": new_id(), "state": deep}
        yield {"op": "canvas.create", "body": state}
        patch = [{"op": secret, "path": f"/{secret}", "value": 1}]
        body = {"canvas_id": new_id(), "expected_version": 1, "patch": patch}
        yield {"op": "canvas.patch", "body": body}


def test_secrets_that_clients_say_come_out_nowhere(served: Served, figure: Tell) -> None:
    with served.wire("walt") as wire, served.wire("reed") as reader, served.wire("ada") as admin:
        for op, body in _writes():
            served.said.append((op, wire.call(op, body)))
            served.said.append((op, reader.call(op, body)))
        for mistake in _mistakes():
            for each in (wire, reader, admin):
                request = {"v": 1, "id": 1, "body": {}, **mistake}
                served.said.append((mistake, each.raw(pack(request))))
        served.said.append(admin.raw(TEXT.encode()))
        admin.send("approval.export")
        served.said += list(iter(lambda: _item(admin), None))
        head = admin.head()[0]
    assert head > 20
    assert any("<redacted>" in str(said) for said in served.said)
    served.said.append(served.metrics())
    database = str(served.folder / "journal.db")
    served.said.append(
        served.command("backup", "--to", str(served.folder / "copy.db"), "--db", database)
    )
    served.said.append(served.command("export", "--db", database))
    assert len(served.said[-1].splitlines()) > head
    served.said.append(served.command("doctor", "--db", database))
    served.stop()
    leaks = [said for said in served.said if FOUND.search(_output(said))]
    figure(28, "answers, logs and files looked through", len(served.said))
    figure(28, "with a secret", len(leaks), most=0)
    assert leaks == []
    files = [path for path in served.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"journal.db", "copy.db", "log"}
    assert [path.name for path in files if FOUND.search(path.read_bytes().decode("latin-1"))] == []


def test_a_secret_key_is_in_no_answer_no_log_and_no_other_file(served: Served) -> None:
    """The engine's and the clients' own, also of one that is refused, revoked, or broken."""
    secrets = [read_client_key(path).pair.secret for path in served.keys.secrets.iterdir()]
    secrets.append(served.keys.server().secret)
    with served.wire("walt") as wire, served.wire("ada") as admin:
        for op in ("engine.hello", "engine.health", "engine.stats"):
            served.said += [wire.call(op), admin.call(op)]
        public = served.keys.principals / "reed.pub"
        public.write_bytes((served.keys.secrets / "reed.secret").read_bytes())
        served.keys.revoke("walt")
        while wire.socket.poll(0) == 0 and "1 key files" not in str(served.said[-1]):
            served.said.append(admin.call("engine.health"))
    served.said.append(served.metrics())
    served.said.append(served.command("keys", "list", "--keys", str(served.keys.path)))
    wrong = str(served.keys.path / "server.secret")
    words = ("stats", "--endpoint", served.endpoint, "--key-file", wrong, "--timeout", "1")
    served.said.append(served.command(*words))
    served.stop()
    assert [said for said in served.said for one in secrets if one in str(said)] == []
    files = [path for path in served.folder.rglob("*") if path.is_file()]
    own = {"server.secret", "ada.secret", "walt.secret", "reed.secret", "reed.pub"}
    for path in files:
        held = [one for one in secrets if one.encode() in path.read_bytes()]
        assert not held or path.name in own
        assert path.stat().st_mode & 0o077 == 0 or path.name in ("log", "engine.toml")


def _item(wire: Wire) -> Any:
    reply = wire.receive()
    return reply.get("item")


def _output(said: Any) -> str:
    """What the engine said: of a pair the second is its answer."""
    answer = said[1] if isinstance(said, tuple) else said
    if isinstance(answer, bytes):
        return answer.decode("latin-1")
    return str(answer)
