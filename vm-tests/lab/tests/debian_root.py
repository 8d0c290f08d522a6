"""A few files that look like a Debian root, for tests that need no real one."""

from pathlib import Path

PROGRAMS = {
    "coreutils": ["/usr/bin/cat", "/usr/bin/mkdir"],
    "bash": ["/bin/bash"],
    "procps": ["/usr/bin/kill"],
    "prometheus-node-exporter": ["/usr/bin/prometheus-node-exporter"],
}


def make(root: Path) -> Path:
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    for package, programs in PROGRAMS.items():
        (info / f"{package}.list").write_text("/.\n/usr\n" + "".join(f"{p}\n" for p in programs))
        for program in programs:
            at = root / "usr/bin" / Path(program).name
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text("#!/bin/sh\n")
    etc = root / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\nmysql:x:101:102:MySQL:/nonexistent:/bin/false\n")
    (etc / "shadow").write_text("root:*:1::::::\nmysql:!:1::::::\n")
    (etc / "group").write_text("root:x:0:\nmysql:x:102:\nadm:x:4:\n")
    (etc / "gshadow").write_text("root:*::\nmysql:!::\nadm:*::\n")
    units = root / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    (units / "systemd-journald.service").write_text("[Service]\n")
    ours = root / "usr/local/lib/trivet/bin"
    ours.mkdir(parents=True)
    (ours / "trivet-web").write_text("")
    return root
