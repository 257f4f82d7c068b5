"""MONAI Label's own server as a process, and a client of its REST interface."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

HERE = Path(__file__).parent
SECONDS = 300
VARIABLES = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}


def environment() -> dict[str, str]:
    paths = [str(HERE / "cpu_torchvision")] if _is_cpu_build() else []
    return {**os.environ, **VARIABLES, "PYTHONPATH": os.pathsep.join(paths)}


def _is_cpu_build() -> bool:
    import torch

    return torch.version.cuda is None


def metalr_monai(*words: object) -> subprocess.CompletedProcess[str]:
    """The command line."""
    command = [sys.executable, "-m", "metalr_monai", *map(str, words)]
    return subprocess.run(command, env=environment(), capture_output=True, encoding="utf-8", timeout=SECONDS)


def prepare(app: Path, studies: Path, *bundles: Path) -> str:
    """The command that starts the server, as `label-app` prints it."""
    names = ",".join(map(str, bundles))
    done = metalr_monai("label-app", app, "--studies", studies, "--bundles", names, "--port", _free_port(), "--json")
    assert done.returncode == 0, done.stderr
    command: str = json.loads(done.stdout)["command"]
    return command


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server that runs, and what a viewer asks it for."""

    def __init__(self, command: str, log: Path) -> None:
        self.words = shlex.split(command)
        self.url = f"http://127.0.0.1:{self.words[self.words.index('--port') + 1]}"
        self._log = log
        begin = time.monotonic()
        with log.open("a") as output:
            self.process = subprocess.Popen(
                self.words, env=environment(), stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
            )
        while not self._answers():
            assert self.process.poll() is None, self.log[-4000:]
            assert time.monotonic() - begin < SECONDS, self.log[-4000:]
            time.sleep(0.2)
        self.seconds_to_start = time.monotonic() - begin

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/info/", timeout=5).ok
        except requests.RequestException:
            return False

    def ask(self, method: str, path: str, **options: object) -> requests.Response:
        return requests.request(method, self.url + path, timeout=SECONDS, **options)

    def answer(self, method: str, path: str, **options: object) -> Any:  # noqa: ANN401 - JSON
        found = self.ask(method, path, **options)
        assert found.ok, f"{method} {path}: {found.status_code} {found.text}\n{self.log[-3000:]}"
        return found.json()

    def info(self) -> dict[str, Any]:
        return self.answer("GET", "/info/")

    def infer(self, model: str, study: str, output: str, **params: object) -> requests.Response:
        form = {"params": json.dumps({"device": "cpu", **params})}
        return self.ask("POST", f"/infer/{model}", params={"image": study, "output": output}, data=form)

    def save_label(self, study: str, file: Path) -> dict[str, str]:
        with file.open("rb") as content:
            files = {"label": (file.name, content)}
            return self.answer("PUT", "/datastore/label", params={"image": study, "tag": "final"}, files=files)

    def train(self, model: str, *, wait: bool = True, **options: object) -> requests.Response:
        options = {"device": "cpu", "multi_gpu": False, **options}
        return self.ask("POST", f"/train/{model}", params={"run_sync": wait}, json=options)

    def next_study(self, strategy: str) -> str:
        study: str = self.answer("POST", f"/activelearning/{strategy}", json={})["id"]
        return study

    def score(self, method: str) -> dict[str, float]:
        return self.answer("POST", f"/scoring/{method}", params={"run_sync": True}, json={"device": "cpu"})

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(command: str, log: Path) -> Iterator[Server]:
    server = Server(command, log)
    try:
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
