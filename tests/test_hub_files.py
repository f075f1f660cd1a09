"""Models of the hub: fetched from a server of its interface on this machine, or said why not."""

import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import huggingface_hub

from data_scripts.fetch import FetchError
from tests.tiny_transformers import make_checkpoint
from ulmfit_app.errors import BundleError
from ulmfit_app.models import hub_files
from ulmfit_app.models.hub import find_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    """A whole BERT that a test may spoil."""
    return make_checkpoint(tmp_path / "bert", "bert")


class Hub(ThreadingHTTPServer):
    """The part of the hub's interface that fetching a model takes, on loopback."""

    daemon_threads = True

    def __init__(self, models: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.models, self.asked, self.cut = models, [], False
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        api = path.removeprefix("api/models/").removesuffix("/revision/main")
        name, _, file = path.partition(f"/resolve/{COMMIT}/")
        if api in self.server.models and path.startswith("api/"):
            files = sorted(self.server.models[api].iterdir())
            siblings = [{"rfilename": file.name, "size": file.stat().st_size} for file in files]
            facts = {"id": api, "sha": COMMIT, "siblings": siblings}
            self.answer(200, json.dumps(facts).encode())
        elif api.endswith(f"/tree/{COMMIT}"):  # which snapshot_download asks for
            files = sorted(self.server.models[api.removesuffix(f"/tree/{COMMIT}")].iterdir())
            facts = [{"type": "file", "path": file.name, "oid": "0"} for file in files]
            sizes = [{"size": file.stat().st_size} for file in files]
            tree = [fact | size for fact, size in zip(facts, sizes, strict=True)]
            self.answer(200, json.dumps(tree).encode())
        elif name in self.server.models and file:
            if self.command == "GET":
                self.server.asked.append(file)
            self.answer(200, (self.server.models[name] / file).read_bytes())
        else:
            self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(body) & 0xFFFFFFFF:x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            cut = self.server.cut and len(body) > 20_000
            self.wfile.write(body[:100] if cut else body)
            self.close_connection = self.close_connection or cut


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub with tiny/bert, which has files that are not to be fetched; and an empty cache."""
    for name in ("pytorch_model.bin", "tf_model.h5", "modeling.py", "model.fp16.safetensors"):
        (folder / name).write_text("not to be fetched")
    server = Hub({"tiny/bert": folder, "tiny-bert": folder})
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["tiny/bert", "tiny-bert"])
def test_a_model_of_the_hub_is_fetched_by_one_commit_without_pickles_or_code(hub, folder, name):
    found = find_checkpoint(name)
    fetched = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(hub.asked) == {file.name for file in found.folder.iterdir()} == fetched
    assert found.origin == f"{name} of the Hugging Face hub, commit {COMMIT[:12]}"
    assert found.folder.name == COMMIT
    for file in fetched:
        assert (found.folder / file).read_bytes() == (folder / file).read_bytes()
    hub.asked.clear()
    assert find_checkpoint(name) == found and hub.asked == []  # from the cache


def test_a_fetched_model_is_found_by_transformers_too(hub):
    from transformers import AutoConfig

    find_checkpoint("tiny/bert")
    cache = huggingface_hub.constants.HF_HUB_CACHE
    theirs = AutoConfig.from_pretrained("tiny/bert", local_files_only=True, cache_dir=cache)
    assert theirs.hidden_size == 32


def test_without_a_connection_a_fetched_model_is_taken_from_the_cache_and_that_is_said(
    hub, monkeypatch, caplog
):
    found = find_checkpoint("tiny/bert")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.INFO, "ulmfit_app"):
        assert find_checkpoint("tiny/bert") == found
    assert "gave no answer (Connection refused): taking the tiny/bert that was" in caplog.text


def test_offline_mode_takes_the_cache_and_asks_nobody(hub, tmp_path):
    """In a process of its own, because the library reads its variables once."""
    found = find_checkpoint("tiny/bert")
    hub.models, hub.asked = {}, []
    code = "from ulmfit_app.models.hub import find_checkpoint as f; print(f('tiny/bert').folder)"
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "cache").rename(home / "hub")
    offline = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True
    )
    assert Path(run.stdout.strip()).name == found.folder.name == COMMIT
    assert Path(run.stdout.strip()).is_relative_to(home)


def test_a_model_that_the_hub_does_not_have_is_said(hub):
    with pytest.raises(FetchError, match=r"'tiny/no' is no folder here.*en-small.*minilm") as told:
        find_checkpoint("tiny/no")
    assert "gives no such model away (the server answered 404)" in str(told.value)


@pytest.mark.parametrize("answers", [False, True], ids=["refused", "silent"])
def test_a_hub_that_cannot_be_reached_fails_in_seconds_with_what_to_do(
    hub, monkeypatch, answers, tmp_path
):
    monkeypatch.setattr(hub_files, "ANSWER_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if answers:  # it takes the connection, and says nothing
            silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(FetchError, match="could not be had from the Hugging Face hub") as told:
            find_checkpoint("tiny/bert")
        assert time.monotonic() - start < 5  # the library's own retries take over a minute
    assert "give the folder `model` that it makes" in str(told.value)
    assert told.value.exit_code == 8
    # What it says to run makes a folder that is taken.
    monkeypatch.chdir(tmp_path)
    _, _, code = shlex.split(str(told.value).rpartition("minilm. ")[2])
    fetch = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *names, **options: fetch(*names, endpoint=hub.address, **options),
    )
    exec(code, {})
    assert find_checkpoint("model").kind == "masked"


def test_a_slow_name_server_is_not_waited_for(hub, monkeypatch):
    waiting = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: waiting.wait(20) and [])
    monkeypatch.setattr(hub_files, "ANSWER_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(FetchError, match=r"\(no answer within 0\.3 seconds\)"):
        find_checkpoint("tiny/bert")
    waiting.set()
    assert time.monotonic() - start < 5


def test_a_download_that_broke_off_is_not_taken_for_a_model(hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's retries
    hub.cut = True
    with pytest.raises(FetchError, match="could not be had"):
        find_checkpoint("tiny/bert")
    with pytest.raises(FetchError, match="could not be had"):  # nor from the cache
        find_checkpoint("tiny/bert")
    hub.cut = False
    assert find_checkpoint("tiny/bert").kind == "masked"


def test_a_model_with_pickled_weights_only_is_refused_before_anything_is_fetched(hub, folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"pickled weights only .* \(pytorch_model\.bin\)"):
        find_checkpoint("tiny/bert")
    assert hub.asked == []


def test_a_model_with_code_of_its_own_is_refused_before_its_weights_are_fetched(hub, folder):
    config = json.loads((folder / "config.json").read_text())
    own = {"auto_map": {"AutoModel": "modeling.Model"}}
    (folder / "config.json").write_text(json.dumps(config | own))
    with pytest.raises(BundleError, match="asks to run code"):
        find_checkpoint("tiny/bert")
    assert "config.json" in hub.asked and "model.safetensors" not in hub.asked


def test_a_repository_without_config_is_refused(hub, folder):
    (folder / "config.json").unlink()
    with pytest.raises(
        BundleError, match=r"tiny/bert has no config\.json on the Hugging Face hub"
    ):
        find_checkpoint("tiny/bert")
