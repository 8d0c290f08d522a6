"""./lab: the command line."""

import argparse
import os
import re
import signal
import sys
from pathlib import Path

from lab import bring_up, build, chaos, host, report, rootfs, scenarios
from lab.bench import backups, database, scale
from lab.bench import command as bench
from lab.differential import command as differential
from lab.errors import LabError
from lab.log import Log
from lab.progress import say
from lab.running import REPOSITORY, VM_TESTS, Lab
from lab.unread_bodies import command as unread_bodies

DEFAULT_NAME = "trivet"
NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="lab", description="Trivet's test cluster on this machine: three nodes and a client. See docs/lab.md.",
        epilog=f"Scenarios of `test`: {', '.join(scenarios.available())}.")
    p.set_defaults(name=None, profile=os.environ.get("TRIVET_LAB_PROFILE", "lab"))
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        c = commands.add_parser(name, help=text, description=text)
        c.add_argument("--name", default=argparse.SUPPRESS, help="which lab (several can run beside one another)")
        return c

    def profiled(c: argparse.ArgumentParser) -> None:
        c.add_argument("--profile", default=argparse.SUPPRESS, help="cargo's profile (default: lab)")

    profiled(command("up", "install, build, boot, and wait until the site answers"))
    command("down", "stop everything this lab started, and see that nothing is left")
    command("status", "what `trivet status` says on a node")
    test = command("test", "run scenarios, each on fresh machines")
    test.add_argument("scenario", nargs="*", metavar="NAME", help="all when none is named")
    test.add_argument("--keep", action="store_true", help="stop at a failed scenario and leave its machines running")
    test.add_argument("--results", type=Path, help="folder for logs and measurements (default: target/lab)")
    profiled(test)
    run = command("run", "run a command on a node")
    run.add_argument("node")
    client = command("client", "run a command on the client")
    for c in (run, client):
        c.add_argument("argv", nargs="*", metavar="-- CMD")
    bench.add_options(command("bench", "Trivet's balancer measured against HAProxy and nginx (docs/benchmarks.md)"))
    database.add_options(command("bench-db", "the database through the gateway against a direct connection; reads with 1, 2, 3 members"))
    backups.add_options(command("bench-backup", "what base copies, restores and the log of the backups cost (docs/benchmarks.md)"))
    scale.add_options(command("bench-scale", "what a large configuration costs a request (docs/benchmarks.md)"))
    differential.add_options(command("differential", "the same bytes through Trivet, HAProxy and nginx: every difference is explained, or it fails"))
    unread_bodies.add_options(command("unread-bodies", "bodies that a server leaves unread, through three proxies: no client meets another's"))
    chaos.add_options(command("chaos", "random faults under concurrent users, and a judge (docs/chaos.md)"))
    chaos.add_failover_options(command("bench-failover", "how long nobody can write while the primary moves (docs/chaos.md)"))
    command("install", "only install what the lab and the build need")
    return p


def main(argv: list[str]) -> int:
    # What follows -- belongs to the machine's command, options and all.
    before, tail = (argv[:argv.index("--")], argv[argv.index("--") + 1:]) if "--" in argv else (argv, [])
    options = parser().parse_args(before)
    if hasattr(options, "argv"):
        options.argv = options.argv + tail
    elif tail:
        parser().error(f"{options.command} takes no command after --")
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        return COMMANDS[options.command](options)
    except LabError as e:
        print(f"lab: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _name(options: argparse.Namespace, default: str = DEFAULT_NAME) -> str:
    name = options.name or default
    if not NAME.fullmatch(name):
        raise LabError(f"--name {name!r}: a name is up to 20 letters, digits and dashes, and begins with a letter")
    return name


def _snapshots() -> Path:
    return Path(os.environ.get("TRIVET_LAB_SNAPSHOTS", VM_TESTS / "snapshots"))


def _lab(name: str) -> Lab:
    return Lab(name, _snapshots(), Log(), Path.cwd())


def _lock(name: str) -> host.Lock:
    return host.Lock(Path("/run/lock") / f"trivet-lab-{name}.lock", f"another command is at work on lab {name!r}: wait for it, or use --name OTHER")


def _existing(name: str) -> Lab:
    lab = _lab(name)
    if not lab.exists():
        raise LabError(f"there is no lab {name!r}: ./lab up")
    return lab


def up(options: argparse.Namespace) -> int:
    host.require_host()
    name = _name(options)
    with _lock(name):
        host.install_tools(host.LAB_TOOLS)
        lab = _lab(name)
        lab.refuse_if_taken()
        try:
            bring_up.up(lab, options.profile)
        except BaseException as e:
            _clean_up_after(lab, e)
            raise
    say(f"up: {lab.cluster.url} (at {lab.cluster.virtual_addresses[0]}, for the client)")
    other = "" if name == DEFAULT_NAME else f" --name {name}"
    print(f"""
  a page          ./lab client{other} -- curl {lab.cluster.url}
  the cluster     ./lab status{other}
  a node          ./lab run node1{other} -- journalctl -f
  pull the plug   ./lab run node1{other} -- systemctl kill --kill-whom=main -s KILL trivet-balancer
  stop            ./lab down{other}""")
    return 0


def _clean_up_after(lab: Lab, error: BaseException) -> None:
    """A lab that did not come up is of use for its logs only."""
    if not lab.folder.exists():
        return
    logs = build.target_dir(REPOSITORY) / "lab" / f"failed-{lab.name}"
    if isinstance(error, LabError):
        bring_up.save_logs(lab, logs)
        say(f"the nodes' logs are kept in {logs}")
    lab.remove()


def down(options: argparse.Namespace) -> int:
    host.require_host()
    name = _name(options)
    with _lock(name):
        lab = _lab(name)
        if not lab.exists():
            say(f"there is no lab {name!r}: nothing to do")
        else:
            lab.remove()
            say("down: no process, mount, namespace, bridge or cgroup is left")
    return 0


def status(options: argparse.Namespace) -> int:
    host.require_host()
    lab = _existing(_name(options))
    for node in lab.nodes.values():
        print(f"{node.name}  {node.addresses[0]}  {'running' if node.is_up() else 'off'}")
    for node in lab.nodes.values():
        if node.is_up():
            return lab.hand_over(node.enter_command(["trivet", "status"]))
    raise LabError("no node is running")


def test(options: argparse.Namespace) -> int:
    host.require_host()
    name = _name(options, "trivet-test")
    scenarios.choose(options.scenario)
    results = (options.results or build.target_dir(REPOSITORY) / "lab").resolve()
    with _lock(name):
        host.install_tools(host.LAB_TOOLS)
        lab = _lab(name)
        lab.make_room()
        try:
            outcomes = scenarios.run(options.scenario, name, _snapshots(), results, options.profile, options.keep)
        except KeyboardInterrupt:
            if _lab(name).exists():
                _lab(name).remove()
            raise
        report.write_json(outcomes, results / "report.json")
    report.show(outcomes, results / "report.json")
    return 0 if all(o.passed for o in outcomes) else 1


def run(options: argparse.Namespace) -> int:
    host.require_host()
    lab = _existing(_name(options))
    if options.node not in lab.nodes:
        raise LabError(f"no node {options.node!r}; there are: {', '.join(lab.nodes)}")
    return lab.hand_over(lab.nodes[options.node].enter_command(options.argv or ["bash"]))


def client(options: argparse.Namespace) -> int:
    host.require_host()
    lab = _existing(_name(options))
    argv = lab.client.enter_command(options.argv or ["bash"], cwd=str(Path.cwd()))
    return lab.hand_over(argv, lab.client.environment(dict(os.environ)))


def with_faults(options: argparse.Namespace) -> int:
    host.require_host()
    name = _name(options, chaos.NAME)
    work = chaos.main if options.command == "chaos" else chaos.failover
    if options.markdown:
        return work(options, name, _snapshots())
    with _lock(name):
        chaos.tools()
        _lab(name).make_room()
        try:
            return work(options, name, _snapshots())
        except BaseException:
            if _lab(name).exists():
                _lab(name).remove()
            raise


def bench_cluster(options: argparse.Namespace) -> int:
    """Those that measure a cluster of their own."""
    host.require_host()
    measure, default = {"bench-db": (database.main, database.NAME), "bench-backup": (backups.main, backups.NAME)}[options.command]
    name = _name(options, default)
    with _lock(name):
        _lab(name).make_room()
        return measure(options, name, _snapshots(), build.target_dir(REPOSITORY) / "lab" / options.command)


def install(_: argparse.Namespace) -> int:
    host.require_host()
    host.install_tools(host.LAB_TOOLS | host.BUILD_TOOLS)
    rootfs.ensure()
    return 0


COMMANDS = {"up": up, "down": down, "status": status, "test": test, "run": run, "client": client, "install": install,
            "chaos": with_faults, "bench-failover": with_faults, "bench": bench.main, "bench-db": bench_cluster, "bench-backup": bench_cluster,
            "bench-scale": scale.main, "differential": differential.main, "unread-bodies": unread_bodies.main}
