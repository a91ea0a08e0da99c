"""The other end: runs on the target, builds engines there, times whole sessions, and says what it saw.

It is pushed as part of an archive (`archive`) and started by ssh; nothing of it stays running when the link
is gone. It judges nothing: gates, floors and tables are the host's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from hwnas import backends
from hwnas.backends.cuda.state import conditions
from hwnas.errors import BackendUnavailable, HwnasError, InputError
from hwnas.measure import host
from hwnas.measure.remote import wire
from hwnas.measure.session import SessionOptions, record
from hwnas.plugins import NAME
from hwnas.protocols import Backend, Engine
from hwnas.records import Setting

KEPT_BYTES = 512 << 20  # of models, so that a model crosses the link once


def main(home: str) -> None:
    """Serve the host on standard input and output until it goes."""
    os.environ["HWNAS_HOME"] = home  # for what runtimes write on the way; a target has no platformdirs
    # Runtimes print to standard output as they please; the link must be ours alone.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    Agent(Path(home), sys.stdin.buffer, out).serve()


class Agent:
    """Answers one request after the other.

    Args:
        home: folder of its lock files.
        source, out: the link.
    """

    def __init__(self, home: Path, source: IO[bytes], out: IO[bytes]) -> None:
        self.home, self.source, self.out = home, source, out
        self.requests: queue.Queue[tuple[dict[str, Any], bytes]] = queue.Queue()
        self.backends: dict[str, Backend] = {}
        self.engines: dict[int, Engine] = {}
        self.models: OrderedDict[str, bytes] = OrderedDict()
        self.claims: dict[str, int] = {}
        self.made = 0

    def serve(self) -> None:
        """Read in a thread of its own, so that a link that is lost ends a build of minutes, too."""
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            body, payload = self.requests.get()
            wire.send(self.out, *self.reply(body, payload))

    def reply(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """The answer to one request, or what went wrong as its kind and its words."""
        try:
            return self._answer(body, payload)
        except HwnasError as exc:
            kind, text = type(exc).__name__, str(exc)
        except ModuleNotFoundError as exc:
            kind = BackendUnavailable.__name__
            text = f"the package {exc.name} is needed for this there: pip install {exc.name}"
        except OSError as exc:
            kind, text = "disk", str(exc)
        except Exception as exc:
            kind, text = "bug", f"{type(exc).__name__}: {exc}"
        return {"error": kind, "text": text[: wire.TEXT]}, b""

    def _read(self) -> None:
        try:
            while True:
                self.requests.put(wire.receive(self.source))
        except (wire.WireError, OSError, ValueError):
            os._exit(0)

    def _answer(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        verbs: dict[str, Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]] = {
            "machine": self._machine,
            "claim": self._claim,
            "setting": self._setting,
            "forms": self._forms,
            "open": self._open,
            "record": self._record,
            "time": self._time,
            "run": self._run,
            "save": self._save,
            "close": self._close,
        }
        verb = verbs.get(body.get("verb", ""))
        if verb is None:
            raise InputError(f"the agent knows no verb {body.get('verb')!r}")
        return verb(body, payload)

    def _machine(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """The machine, its runtimes, and the state of its clocks."""
        info = host.detect()
        rows = [{**row, "about": backends.about(row["name"])} for row in backends.describe()]
        state = {"power": host.power()}
        for gpu in info.gpus:
            state.update(conditions(f"{gpu.name}, compute"))
        answer = {
            "info": info.model_dump(mode="json"),
            "rows": rows,
            "state": state,
            "numpy": np.__version__,
        }
        return {}, json.dumps(answer).encode()

    def _claim(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """The right to measure on a device: one process at a time, until the link ends."""
        device = str(body["device"])
        if not NAME.fullmatch(device):
            raise InputError(f"{device!r} is not a name of a device")
        if device in self.claims:
            return {"held": True}, b""
        handle = os.open(self.home / f"{device}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            by = os.read(handle, 200).decode(errors="replace")
            os.close(handle)
            return {"held": False, "by": by}, b""
        os.truncate(handle, 0)
        os.write(handle, str(body.get("who", ""))[:200].encode())
        self.claims[device] = handle
        return {"held": True}, b""

    def _backend(self, body: dict[str, Any]) -> Backend:
        name = str(body["backend"])
        if name not in self.backends:
            self.backends[name] = backends.get(name)
        return self.backends[name]

    def _setting(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        made = self._backend(body).setting(
            body["device"], body["precision"], int(body["batch"]), int(body["threads"])
        )
        return {"setting": made.model_dump(mode="json")}, b""

    def _forms(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        return {"forms": [asdict(form) for form in self._backend(body).forms()]}, b""

    def _open(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Build a model, or load an engine, by its hash; asks for the content where it is not here."""
        digest, model = str(body["sha256"]), payload
        if not model:
            if digest not in self.models:
                return {"wanted": digest}, b""
            self.models.move_to_end(digest)
            model = self.models[digest]
        elif hashlib.sha256(model).hexdigest() != digest:
            raise InputError("a model was damaged on its way; run the command again")
        self.models[digest] = model
        while len(self.models) > 1 and sum(map(len, self.models.values())) > KEPT_BYTES:
            self.models.popitem(last=False)
        backend, setting = self._backend(body), _setting_of(body["setting"])
        engine = self._load(backend, model, setting) if body["load"] else backend.build(model, setting)
        self.made += 1
        self.engines[self.made] = engine
        return {
            "engine": self.made,
            "setting": engine.setting.model_dump(mode="json"),
            "warms": bool(getattr(engine, "warms", False)),
        }, b""

    def _load(self, backend: Backend, model: bytes, setting: Setting) -> Engine:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"engine{backend.suffix}"
            path.write_bytes(model)
            return backend.load(path, setting)

    def _engine(self, body: dict[str, Any]) -> Engine:
        if body["engine"] not in self.engines:
            raise InputError("this engine is closed; build or load it again")
        return self.engines[body["engine"]]

    def _record(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """One session: the time of every call, undistorted by the link."""
        engine, options = self._engine(body), SessionOptions(**body["options"])
        flush = None
        if options.cache == "cold":
            flush = getattr(engine, "flush", None)
            if flush is None and engine.setting.device == "cpu":
                flush = host.cpu_flush()
        seen = record(engine, options, flush)
        last = seen.last
        answer = {
            "sizes": [len(batch.wall_ms) for batch in seen.batches],
            "cpu_ms": [batch.cpu_ms for batch in seen.batches],
            "each": last.each,
            "error_ms": last.error_ms,
            "host_ms": last.host_ms,
            "enqueue_ms": last.enqueue_ms,
            "unsteady": seen.unsteady,
            "watched": list(seen.watched),
        }
        return answer, np.concatenate([batch.wall_ms for batch in seen.batches]).astype("<f8").tobytes()

    def _time(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        times = self._engine(body).time(int(body["calls"]))
        answer = {
            "cpu_ms": times.cpu_ms,
            "each": times.each,
            "error_ms": times.error_ms,
            "host_ms": times.host_ms,
            "enqueue_ms": times.enqueue_ms,
        }
        return answer, times.wall_ms.astype("<f8").tobytes()

    def _run(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        images = np.frombuffer(payload, "<f4").reshape(body["shape"])
        scores = np.ascontiguousarray(self._engine(body).run(images), dtype="<f4")
        return {"shape": list(scores.shape)}, scores.tobytes()

    def _save(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "engine"
            self._engine(body).save(path)
            return {}, path.read_bytes()

    def _close(self, body: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        engine = self.engines.pop(body["engine"], None)
        if engine is not None:
            engine.close()
        return {}, b""


def _setting_of(body: dict[str, Any]) -> Setting:
    affinity = body.get("affinity")
    lists = {name: tuple(body.get(name, ())) for name in ("batches", "compatible")}
    return Setting(**{**body, **lists, "affinity": None if affinity is None else tuple(affinity)})
