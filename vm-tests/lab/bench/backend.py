"""What stands behind all three, at a port for each of servers.LINKS: nginx with small, middle and large files in memory."""

from pathlib import Path

from lab import arena
from lab.bench.cases import SIZES
from lab.servers import Certificates


def unwell(folder: Path) -> Path:
    """The folder of addresses: while a file has the name of one, checks there are answered 503, and all else as ever."""
    return folder / "unwell"


def config(folder: Path, ports: dict[str, int], certificates: Certificates, address: str = "127.0.0.1") -> str:
    c = certificates
    return f"""
daemon off;
user root root;
worker_processes 1;
worker_rlimit_nofile {arena.DESCRIPTORS};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    sendfile on; tcp_nopush on; etag off;
    open_file_cache max=100 inactive=1h;
    keepalive_requests 100000000; keepalive_timeout 1h; keepalive_time 24h;
    ssl_protocols TLSv1.3; ssl_session_cache shared:backend:10m;
    ssl_certificate {c.node}; ssl_certificate_key {c.node_key}; ssl_client_certificate {c.ca};
    root {folder}/files;
    server {{
        listen {address}:{ports["plain"]} backlog=4096;
        listen 127.0.0.1:{ports["tls"]} ssl backlog=4096;
        ssl_verify_client optional;
        location = /healthz {{
            open_file_cache off;
            if (-f {unwell(folder)}/$server_addr) {{ return 503; }}
            return 200;
        }}
    }}
    server {{
        listen 127.0.0.1:{ports["h2"]} backlog=4096;
        http2 on;
        location = /healthz {{ return 200; }}
    }}
}}
"""


def start(processes: arena.Processes, folder: Path, ports: dict[str, int], certificates: Certificates, root: Path, cores: list[int],
          address: str = "127.0.0.1") -> None:
    (folder / "files").mkdir(parents=True)
    unwell(folder).mkdir()
    for name, size in SIZES.items():
        # Text of no particular kind: nothing here compresses.
        (folder / "files" / name).write_bytes((b"0123456789abcdef" * (size // 16 + 1))[:size])
    (folder / "nginx.conf").write_text(config(folder, ports, certificates, address))
    processes.start("backend", [*arena.debian(root, "nginx"), "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"], cores)
    processes.wait_for_port("backend", ports["plain"])
