"""`./lab bench`."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab import arena, rootfs, servers
from lab.bench import cases as all_cases
from lab.bench import load, measure, plan, report
from lab.process import run
from lab.progress import say, warn
from lab.running import REPOSITORY

# What it may take at most; it is given up then.
SECONDS = {True: 10 * 60, False: 45 * 60}


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("case", nargs="*", metavar="NAME",
                         help=f"which, by name or pattern; all when none is named. {', '.join(c.name for c in all_cases.CASES)}, {all_cases.MEMORY}")
    command.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, as docs/benchmarks.md has them")
    command.add_argument("--quick", action="store_true", help="shorter and fewer rounds: about 4 minutes, for a first look")
    command.add_argument("--balancer", type=Path, help="a built trivet-balancer (default: build one)")
    command.add_argument("--profile", default=argparse.SUPPRESS, help="cargo's profile (default: release)")


def main(options: argparse.Namespace) -> int:
    all_cases.choose(options.case)
    if arena.inside():
        return _inside(options)
    profile = options.profile if options.profile != "lab" else "release"
    balancer = arena.prepare(options.balancer, profile)
    again = ["bench", *options.case, "--balancer", str(balancer), "--profile", "given binary" if options.balancer else profile]
    again += ["--quick"] * options.quick
    for option in ("json", "markdown"):
        if file := getattr(options, option):
            again += [f"--{option}", str(file.resolve())]
    return arena.enter(again, SECONDS[options.quick])


def _commit() -> str:
    done = subprocess.run(["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _inside(options: argparse.Namespace) -> int:
    arena.settle()
    began = time.monotonic()
    chosen, with_memory = all_cases.choose(options.case)
    wanted = plan.QUICK if options.quick else plan.FULL
    root = rootfs.ensure()
    folder = Path(tempfile.mkdtemp(prefix="trivet-bench-"))
    # Logs and files lie in memory: no disk takes part. The mount is this namespace's own.
    run(["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", folder])
    processes = arena.Processes(folder)
    about: dict[str, Any] = {
        "versions": {server: servers.version(server, root, options.balancer) for server in servers.NAMES}, "profile": options.profile,
        "commit": _commit(), "rounds": wanted.rounds, "seconds": wanted.seconds, "cpu": _cpu(), "kernel": platform.release(),
        "cores": asdict(plan.cores(os.sched_getaffinity(0))), "load_before": os.getloadavg()[0], "suite": load.SUITE, "group": load.GROUP,
    }
    if about["load_before"] > 0.5:
        warn(f"this machine is busy (load average {about['load_before']:.1f}): rates, latency and memory of this run say little; "
             "ratios of CPU time are disturbed less")
    bench = measure.Bench(folder, root, options.balancer, servers.make_certificates(folder / "certificates"), wanted,
                          plan.cores(os.sched_getaffinity(0)), processes)
    results: dict[str, Any] = {"about": about, "throughput": {}, "latency": {}, "memory": {}}
    try:
        bench.start_backend()
        for link in sorted({c.link for c in chosen} | ({"plain"} if with_memory else set())):
            for server in servers.NAMES:
                bench.start(server, link)
        for case in chosen:
            results["throughput"][case.name] = bench.throughput(case, servers.NAMES)
            ratio = results["throughput"][case.name]["summary"]["trivet"]["ratio"]
            say(f"{case.name}: Trivet {ratio:.2f} of HAProxy")
            if case.latency:
                results["latency"][case.name] = bench.latency(case, servers.NAMES, results["throughput"][case.name])
        if with_memory:
            say(f"{wanted.idle_connections} idle TLS connections")
            results["memory"] = bench.memory(servers.NAMES)
    finally:
        processes.stop_all()
        run(["umount", "-l", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    about["load_after"] = os.getloadavg()[0]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown(chosen, results))
    bad = {f"{case} {server}": sum(r["bad"] for r in taken) for case, found in results["throughput"].items()
           for server, taken in found["rounds"].items()}
    for what, count in bad.items():
        if count:
            warn(f"{what}: {count} requests failed")
    print(f"\n{report.show(chosen, results)}\n")
    print(report.last_line(about, chosen, time.monotonic() - began))
    return 0
