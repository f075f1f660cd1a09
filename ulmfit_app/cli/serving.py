"""The verb serve, which puts a run's classifier behind HTTP."""

import ipaddress
import logging
import re
import shlex
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from ulmfit_app.cli.process import set_up_torch
from ulmfit_app.config import PredictorPrecision
from ulmfit_app.errors import SettingError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_origin = re.compile(r"https?://([\w.-]+|\[[0-9a-f:.]+\])(:\d+)?", re.ASCII)

MOST_FEEDBACK, MOST_ANSWERS = 100_000_000, 1_000_000_000  # bytes


@dataclass(frozen=True)
class ServeArguments:
    """Serve a run's classifier: a page for people, a JSON API for programs, and metrics.

    /openapi.json describes the API. Stop it with Ctrl+C or SIGTERM: what is in flight is answered.
    """

    run: Positional[Path]  # the run folder
    host: str = "127.0.0.1"  # 0.0.0.0: whoever reaches this machine may use it
    port: int = 8000  # 0: a free one
    # a second run, whose model answers --share of the texts, always the same ones
    canary: Path | None = None
    share: float = 0.0  # of the texts that the --canary answers, such as 0.1
    # JSON lines to which people's "this label is right" is added; None: they are not asked
    feedback: Path | None = None
    # JSON lines to which a line per answer is added, without texts; compare-served reads it
    log: Path | None = None
    log_texts: bool = False  # add the texts to --log
    cors: tuple[str, ...] = ()  # origins whose pages may use the API, such as https://example.org
    timeout: float = 30.0  # seconds that a request may take
    # of the encoder's products; auto: the machine's fastest
    precision: PredictorPrecision = "auto"


def serve(argv: list[str]) -> None:
    """A page and an API."""
    arguments = tyro.cli(ServeArguments, args=argv, prog="python -m ulmfit_app serve")
    _check(arguments)
    # As Ctrl+C until the server handles both: as process 1 of a container, nothing else would.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        _serve(arguments)
    print("Stopped.")


def _serve(arguments: ServeArguments) -> None:
    print("Starting …", flush=True)
    set_up_torch()
    from ulmfit_app.hardware import bound_threads
    from ulmfit_app.serving.api import Service
    from ulmfit_app.serving.connections import bind, run
    from ulmfit_app.serving.guard import build_app
    from ulmfit_app.serving.records import ANSWERS, FEEDBACK, JsonLines
    from ulmfit_app.serving.telemetry import Telemetry
    from ulmfit_app.serving.versions import load_routing

    threads = bound_threads()
    # Before the models are loaded, so that a port that is taken is known at once; it opens after.
    bound = bind(arguments.host, arguments.port)
    telemetry = Telemetry()
    feedback = arguments.feedback and JsonLines(arguments.feedback, MOST_FEEDBACK, FEEDBACK)
    answers = arguments.log and JsonLines(arguments.log, MOST_ANSWERS, ANSWERS)
    routing = load_routing(
        arguments.run,
        arguments.canary,
        arguments.share,
        arguments.precision,
        telemetry.batch,
        arguments.timeout,
    )
    service = Service(
        routing, telemetry, arguments.timeout, feedback, answers, arguments.log_texts
    )
    for version in routing.versions:
        labels, precision = len(version.predictor.labels), version.predictor.precision
        print(f"Model {version.id}: {labels} labels, {precision}, {threads} threads.")
    if routing.canary is not None:
        print(f"{arguments.share:.1%} of the texts go to {routing.canary.id}.")
        if answers is None:
            print("Without --log FILE there will be nothing for compare-served to read.")
    host, port = bound.getsockname()[:2]

    # What a command says once about a file would be said for each upload.
    logging.getLogger("ulmfit_app").setLevel(logging.WARNING)

    def on_start() -> None:
        if not _is_loopback(host):
            print(
                f"Bound to {host}: whoever reaches this machine's port {port} may use the model.",
                file=sys.stderr,
            )
        shown = f"[{host}]" if ":" in host else host
        print(f"Serving on http://{shown}:{port} (stop with Ctrl+C)", flush=True)

    def on_stop() -> None:
        service.stopping = True

    hosts = {*LOOPBACK, arguments.host.lower()} if _is_loopback(host) else ()
    app = build_app(service, arguments.cors, hosts)
    run(app, bound, arguments.timeout, on_start, on_stop)
    routing.close()


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _check(arguments: ServeArguments) -> None:
    if not 0 <= arguments.port <= 65_535:
        raise SettingError(f"--port must be 0 to 65535, not {arguments.port}.")
    if not 0 < arguments.timeout <= 3_600:
        raise SettingError(
            f"--timeout must be above 0 and at most 3600 seconds, not {arguments.timeout:g}."
        )
    if arguments.log_texts and arguments.log is None:
        raise SettingError("--log-texts is about a --log FILE, and none is given. Name one.")
    if arguments.feedback is not None and arguments.feedback.suffix != ".jsonl":
        raise SettingError(
            "--feedback is JSON lines to train on later, and run knows such a file by its name. "
            f"Name it so: --feedback {shlex.quote(str(arguments.feedback.with_suffix('.jsonl')))}"
        )
    files = [path.resolve() for path in (arguments.log, arguments.feedback) if path is not None]
    if len(files) > len(set(files)):
        raise SettingError(
            f"--log and --feedback would both write {arguments.log}. Name two files."
        )
    if arguments.share and arguments.canary is None:
        raise SettingError("--share is about a --canary RUN, and none is given. Leave it out.")
    for origin in arguments.cors:
        if not _origin.fullmatch(origin):
            raise SettingError(
                f"--cors expects origins such as https://example.org, not {origin!r}."
            )
