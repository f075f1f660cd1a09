"""A server as a process of its own, and what it takes of the machine (Linux)."""

import atexit
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

START_SECONDS = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


class Served:
    """A process that serves on 127.0.0.1, started and ready.

    Args:
        module: run as `python -m`; it prints "Serving on http://127.0.0.1:PORT".
        arguments: of the module.

    Attributes:
        port: that it serves on.
        lines: what it printed until then.
    """

    def __init__(self, module: str, arguments: Sequence[object]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open until the end)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        atexit.register(self.process.kill)  # where a measurement fails in the middle
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"Serving on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return
        raise SystemExit(f"The server ended: {''.join(self.lines)}{self.errors()}")

    def errors(self) -> str:
        """What it wrote to standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def end(self, kind: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and wait for the process. Returns its exit status."""
        self.process.send_signal(kind)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def get(self, path: str) -> str:
        """A page of it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read().decode()

    def metrics(self) -> dict[str, float]:
        """What /metrics says, summed over labels, by name."""
        sums: dict[str, float] = {}
        for line in self.get("/metrics").splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    def memory(self) -> int:
        """What it holds in memory now, in kB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)[1])

    def cpu(self) -> float:
        """Seconds of CPU time that it took so far."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8")
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


class Cores:
    """How many cores a server, its clients and all others kept busy, between start and `shares`.

    Args:
        served: the server.
    """

    def __init__(self, served: Served) -> None:
        self._served, self._before = served, self._read(served)

    def shares(self) -> dict[str, float]:
        """Cores, by who kept them busy; and the seconds of CPU time that the server took."""
        before, after = self._before, self._read(self._served)
        wall, server, clients, all_of_it = (b - a for a, b in zip(before, after, strict=True))
        others = max(all_of_it - server - clients, 0.0)
        busy = {"server": server, "clients": clients, "others": others}
        cores = {who: round(seconds / wall, 2) for who, seconds in busy.items()}
        return cores | {"server_cpu_s": round(server, 2)}

    @staticmethod
    def _read(served: Served) -> tuple[float, float, float, float]:
        own = sum(os.times()[:4])  # this process, and children that have ended
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
        user, nice, system, _, _, irq, softirq, steal = map(int, line[1:9])
        busy = (user + nice + system + irq + softirq + steal) / TICKS
        return time.perf_counter(), served.cpu(), own, busy
