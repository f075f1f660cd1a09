"""What the container image is made of and starts, by Dockerfile, .dockerignore and Makefile.

`make image` builds it where a builder is; here no image is built.
"""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import tyro

from ulmfit_app.__main__ import VERBS
from ulmfit_app.cli.serving import ServeArguments

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")


def read_dockerfile() -> list[tuple[str, str]]:
    """Each instruction with its words, without comments, a line each."""
    lines = [line for line in DOCKERFILE.read_text("utf-8").splitlines() if line.strip()]
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in joined]


INSTRUCTIONS = read_dockerfile()
LAST_STAGE = max(i for i, (kind, _) in enumerate(INSTRUCTIONS) if kind == "FROM")


def words_of(kind: str) -> list[str]:
    """What the image's last instruction of a kind says; in exec form, as the image needs it."""
    (*_, words) = (words for name, words in INSTRUCTIONS[LAST_STAGE:] if name == kind)
    found = json.loads(words[words.index("[") :])
    assert all(isinstance(word, str) for word in found)
    return found


def only(kind: str) -> str:
    """What the image's one instruction of a kind says."""
    (words,) = (words for name, words in INSTRUCTIONS[LAST_STAGE:] if name == kind)
    return words


# ---------------------------------------------------------------------------------- the Dockerfile
def test_hadolint_finds_nothing():
    assert HADOLINT, "hadolint is in the extra test. Run: pip install -e '.[test]'"
    done = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_stage_stands_on_a_base_whose_python_is_named():
    assert {words.split()[0] for kind, words in INSTRUCTIONS if kind == "FROM"} == {"${BASE}"}
    (base,) = (words for kind, words in INSTRUCTIONS if words.startswith("BASE="))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    oldest = int(setup["options"]["python_requires"].removeprefix(">=3."))
    found = re.fullmatch(r"BASE=python:3\.(\d+)-slim-[a-z]+", base)
    assert found and oldest <= int(found[1]) <= 13


def test_nothing_is_fetched_by_its_address():
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert "ADD" not in {kind for kind, _ in INSTRUCTIONS}
    assert not re.findall(r"\w+://|\bcurl\b|\bwget\b", text)


def test_the_image_installs_nothing_that_the_build_does_not_hand_over():
    kinds = [kind for kind, _ in INSTRUCTIONS[LAST_STAGE:]]
    assert "RUN" not in kinds
    assert only("COPY") == "--from=build /opt/venv /opt/venv"


def test_torch_comes_without_cuda_unless_asked_for():
    build = INSTRUCTIONS[:LAST_STAGE]
    # uv reads the variable; it has to be there before uv is called.
    backend = build.index(("ARG", "UV_TORCH_BACKEND=cpu"))
    assert backend < min(i for i, (_, words) in enumerate(build) if "uv pip install" in words)


def test_the_extras_that_are_installed_are_declared():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    named = re.findall(r"--extra (\S+)", " ".join(words for _, words in INSTRUCTIONS))
    assert {"serve", "transformers"} <= set(named) <= set(setup["options.extras_require"])


def test_it_runs_as_a_numbered_user_without_rights():
    user, group = only("USER").split(":")
    assert int(user) > 0 and int(group) > 0
    variables = dict(pair.split("=", 1) for pair in only("ENV").split())
    assert variables["HOME"] == "/tmp"  # where libraries write under a read-only root


def test_its_command_is_one_that_serve_takes():
    python, *rest = words_of("ENTRYPOINT")
    assert [python, *rest[:3]] == ["python", "-m", "ulmfit_app", "serve"] and rest[2] in VERBS
    options = [*rest[3:], *words_of("CMD")]
    arguments = tyro.cli(ServeArguments, args=options, console_outputs=False)
    assert (arguments.run, arguments.host) == (Path("/srv/run"), "0.0.0.0")
    assert arguments.port == int(only("EXPOSE"))
    # Options behind the image's name take CMD's place.
    other = ["/srv/imdb", "--canary", "/srv/imdb-2", "--share", "0.1"]
    arguments = tyro.cli(ServeArguments, args=[*rest[3:], *other], console_outputs=False)
    assert (arguments.run, arguments.share) == (Path("/srv/imdb"), 0.1)


def test_it_is_stopped_by_the_signal_that_serve_answers():
    assert only("STOPSIGNAL") == "SIGTERM"


# -------------------------------------------------------------------------------- the health check
@pytest.mark.parametrize("status", [200, 503, None])
def test_the_health_check_tells_a_live_server_from_a_dead_one(status):
    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/healthz" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words):
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Health)
    python, *words = words_of("HEALTHCHECK")
    assert python == "python" and f", {only('EXPOSE')}," in words[1]
    words[1] = words[1].replace(only("EXPOSE"), str(server.server_port))
    if status is None:
        server.server_close()
    else:
        Thread(target=server.handle_request, daemon=True).start()
    # Builders and engines hand proxies on to the container: they are not to be asked.
    proxy = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **proxy},
        capture_output=True,
        timeout=20,
        check=False,
    )
    server.server_close()
    assert (done.returncode == 0) == (status == 200)


# ---------------------------------------------------------------------------- what a build is sent
def read_patterns() -> list[tuple[bool, re.Pattern[str]]]:
    """Of each line of .dockerignore, whether it lets through, and what."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = []
    for line in (line.strip() for line in lines):
        if line and not line.startswith("#"):
            parts = re.split(r"(\*\*/|\*)", line.removeprefix("!"))
            rules = {"**/": "(?:.*/)?", "*": "[^/]*"}
            regex = "".join(rules.get(part) or re.escape(part) for part in parts)
            # A folder's pattern is about all that lies in it.
            patterns.append((line.startswith("!"), re.compile(rf"{regex}(?:/.*)?")))
    return patterns


def is_sent(path: str) -> bool:
    """Whether a builder gets a file: the last pattern that fits it decides."""
    fitting = [sent for sent, pattern in read_patterns() if pattern.fullmatch(path)]
    return fitting[-1] if fitting else True


def test_a_build_is_sent_what_the_package_needs_and_nothing_else():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    packages = [ROOT / "ulmfit_app", ROOT / "data_scripts"]
    data = setup["options.package_data"]["ulmfit_app"].split()
    packaged = {path for package in packages for path in package.rglob("*.py")}
    packaged |= {path for pattern in data for path in packages[0].glob(pattern)}
    there = {path for package in packages for path in package.rglob("*") if path.is_file()}
    there |= {path for path in ROOT.iterdir() if path.is_file()}
    sent = {path for path in there if is_sent(path.relative_to(ROOT).as_posix())}
    weights = {path for path in packaged if (ROOT / "ulmfit_app/weights") in path.parents}
    build_files = {"LICENSE", "README.md", "pyproject.toml", "setup.cfg"}
    assert weights and sent == packaged - weights | {ROOT / name for name in build_files}


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".venv/bin/python",
        "build/lib/ulmfit_app/run.py",
        "notebooks/01.ipynb",
        "reviews.csv",
        "runs/imdb-laptop/run.json",
        "tests/test_container.py",
        "ulmfit_app/serving/__pycache__/api.cpython-312.pyc",
        "ulmfit_app/weights/en-small/bundle.json",
    ],
)
def test_a_build_is_not_sent(path):
    assert not is_sent(path)


# -------------------------------------------------------------------------------------------- make
@pytest.fixture
def make(tmp_path):
    """Run a target in a folder of its own, as if everything was installed there."""
    shutil.copy(ROOT / "Makefile", tmp_path)

    def run(*words: str) -> subprocess.CompletedProcess:
        words = ("make", "--assume-old=.venv/installed-serve", *words)
        # What a make that runs the tests tells the makes below it is not for this one.
        ours = ("MAKE", "MFLAGS", "RUN_FOLDER", "SERVE", "DOCKER", "IMAGE")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return subprocess.run(
            words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )

    return run


def test_make_serve_takes_the_newest_run_of_imdb(tmp_path, make):
    for age, name in enumerate(["imdb-tiny", "imdb-laptop", "imdb-full"]):
        (tmp_path / "runs" / name).mkdir(parents=True)
        os.utime(tmp_path / "runs" / name, (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / "reviews-laptop").mkdir()
    served = '.venv/bin/python -m ulmfit_app serve "runs/imdb-tiny"'
    assert make("--dry-run", "serve").stdout.splitlines()[-1].strip() == served
    named = make("--dry-run", "serve", "RUN_FOLDER=runs/reviews-laptop", "SERVE=--port 8001")
    assert named.stdout.splitlines()[-1].endswith('serve "runs/reviews-laptop" --port 8001')


def test_make_serve_says_what_to_do_where_there_is_no_run(make):
    done = make("serve")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("There is no folder runs/imdb-* yet. Train one: make imdb\n")


def test_make_image_builds_with_the_builder_that_is_named(tmp_path, make):
    builder = tmp_path / "builder"
    builder.write_text('#!/bin/sh\necho "$BUILDAH_FORMAT: $*"\n')
    builder.chmod(0o755)
    done = make("--silent", "image", "DOCKER=./builder", "IMAGE=--no-cache")
    assert done.stdout == "docker: build --tag ulmfit-app --no-cache .\n"


# ---------------------------------------------------------------------------------------- the docs
def test_the_command_of_the_docs_starts_what_the_image_holds():
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^docker run (?:.*\\\n)*.*$", page, re.MULTILINE)
    words = shlex.split(command.replace("\\\n", ""))
    options, arguments = words[: words.index("ulmfit-app")], words[words.index("ulmfit-app") + 1 :]
    safe = "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
    assert set(safe.split()) <= set(options)
    port = only("EXPOSE")
    assert options[options.index("-p") + 1] == f"127.0.0.1:{port}:{port}"
    outside, inside, rights = options[options.index("-v") + 1].split(":")
    served = tyro.cli(ServeArguments, args=arguments, console_outputs=False).run
    assert (Path(inside), Path(outside).name, rights) == (served, served.name, "ro")
