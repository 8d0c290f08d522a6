"""The applications' servers, each started in the lab's Debian root, where its language and its libraries are."""

from dataclasses import dataclass
from pathlib import Path

from lab import arena
from lab.process import run

SCRIPTS = Path(__file__).parent / "servers"
# Where the root sees them: an empty folder of every Debian.
INSIDE = "/mnt"
# What an application does with a body. One that `babbles` sends content after HEAD, late, which reads like an answer.
MODES = ["reads", "half", "ignores"]


@dataclass(frozen=True)
class Server:
    name: str
    argv: tuple[str, ...]
    modes: tuple[str, ...] = tuple(MODES)

    def start(self, processes: arena.Processes, name: str, root: Path, port: int) -> None:
        argv = [word.format(port=port) for word in self.argv]
        processes.start(name, ["chroot", str(root), *argv])
        processes.wait_for_port(name, port)


SERVERS = [
    Server("http.server", ("python3", f"{INSIDE}/http_server.py", "{port}"), (*MODES, "babbles")),
    Server("gunicorn", ("gunicorn", "--chdir", INSIDE, "--bind", "127.0.0.1:{port}", "--worker-class", "gthread", "--threads", "16",
                        "--keep-alive", "60", "--worker-tmp-dir", "/tmp", "--log-level", "error", "wsgi:app")),
    Server("waitress", ("python3", f"{INSIDE}/wsgi.py", "{port}")),
    Server("Node", ("node", f"{INSIDE}/node_http.js", "{port}")),
    Server("WEBrick", ("ruby", f"{INSIDE}/webrick.rb", "{port}")),
    Server("HTTP::Daemon", ("perl", f"{INSIDE}/http_daemon.pl", "{port}"), (*MODES, "babbles")),
]


def furnish(root: Path) -> None:
    """Mount what the servers need into the root: in this arena's mount namespace alone, and nothing of it can be written to."""
    run(["mount", "--bind", root, root])
    run(["mount", "-o", "remount,bind,ro", root])
    run(["mount", "--bind", SCRIPTS, root / INSIDE.lstrip("/")])
    run(["mount", "-t", "proc", "proc", root / "proc"])
    for folder in ("tmp", "run"):
        run(["mount", "-t", "tmpfs", "tmpfs", root / folder])
