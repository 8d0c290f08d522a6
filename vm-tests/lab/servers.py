"""HAProxy, nginx and Trivet's balancer in the same place: one configuration each, like for like (docs/benchmarks.md says in words)."""

import json
from dataclasses import dataclass
from pathlib import Path

from lab import arena
from lab.process import run

SITE = "www.foobar.com"
NAMES = ["haproxy", "nginx", "trivet"]
# How a server speaks to its back end: HTTP/1.1 in plain text, the same over mutual TLS, HTTP/2 by prior knowledge.
LINKS = ["plain", "tls", "h2"]
CIPHERS = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"


@dataclass(frozen=True)
class Certificates:
    """One authority; the site's certificate, and one for back ends and proxies to meet them with. All P-256."""

    ca: Path
    site: Path
    site_key: Path
    node: Path
    node_key: Path

    @property
    def site_bundle(self) -> Path:
        """As HAProxy wants it: certificate and key in one file."""
        return self.site.with_name("site-bundle.pem")

    @property
    def node_bundle(self) -> Path:
        return self.site.with_name("node-bundle.pem")


@dataclass(frozen=True)
class Place:
    """Where one server stands: its ports, and the back end that it has for itself."""

    folder: Path
    plain: int
    tls: int
    stats: int
    backend: int
    link: str = "plain"
    # How long a kept connection may stay without a request, and a new one without its first.
    idle: int = 60
    first: int = 10
    # Trivet's word for back ends that see the ends of messages where it does; the other two know no distrust.
    trusted_framing: bool = False


def make_certificates(folder: Path) -> Certificates:
    """By openssl, valid for a day."""
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    run(["openssl", "req", "-x509", *key, "-keyout", ca_key, "-out", ca, "-subj", "/CN=Trivet lab",
         "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"])
    for name, dns in (("site", SITE), ("node", "backend")):
        run(["openssl", "req", "-x509", *key, "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem",
             "-CA", ca, "-CAkey", ca_key, "-subj", f"/CN={dns}", "-addext", f"subjectAltName=DNS:{dns}",
             "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth,clientAuth"])
    made = Certificates(ca, folder / "site.pem", folder / "site.key", folder / "node.pem", folder / "node.key")
    made.site_bundle.write_text(made.site.read_text() + made.site_key.read_text())
    made.node_bundle.write_text(made.node.read_text() + made.node_key.read_text())
    return made


def haproxy(place: Place, certificates: Certificates) -> str:
    c = certificates
    server = f"server backend 127.0.0.1:{place.backend} check inter 500ms fall 2 rise 2 maxconn 2000 pool-max-conn 256"
    if place.link == "h2":
        server += " proto h2"
    if place.link == "tls":
        server += f" ssl verify required ca-file {c.ca} crt {c.node_bundle} verifyhost backend sni str(backend)"
    return f"""
global
    nbthread 1
    maxconn 14000
    # It wants two descriptors for each of maxconn, and would not start where a user may have 20,000; idle ones take one.
    no strict-limits
    log stdout format raw local0
    stats socket {place.folder}/haproxy.sock
    ssl-default-bind-options ssl-min-ver TLSv1.2
    ssl-default-bind-ciphers {CIPHERS}
defaults
    mode http
    log global
    option httplog
    option forwardfor
    option http-keep-alive
    http-reuse safe
    retries 2
    option redispatch
    timeout http-request {place.first}s
    timeout http-keep-alive {place.idle}s
    timeout client 30s
    timeout connect 5s
    timeout server 30s
    timeout tunnel 1h
frontend site
    maxconn 13000
    stick-table type ipv6 size 100k expire 10m store conn_cur
    tcp-request connection track-sc0 src
    tcp-request connection reject if {{ sc0_conn_cur gt 13000 }}
    bind 127.0.0.1:{place.plain}
    bind 127.0.0.1:{place.tls} ssl crt {c.site_bundle} alpn h2,http/1.1
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    http-request set-header X-Request-Id %[uuid]
    http-response set-header Strict-Transport-Security max-age=31536000 if {{ ssl_fc }}
    http-request deny status 421 unless {{ req.hdr(host),field(1,:) -i {SITE} }}
    default_backend web
backend web
    option httpchk
    http-check send meth GET uri /healthz ver HTTP/1.1 hdr Host backend
    {server}
frontend stats
    bind 127.0.0.1:{place.stats}
    http-request use-service prometheus-exporter if {{ path /metrics }}
    stats enable
    stats uri /
"""


def nginx(place: Place, certificates: Certificates) -> str:
    c = certificates
    scheme = "https" if place.link == "tls" else "http"
    version = "2" if place.link == "h2" else "1.1"
    to_backend = f"""proxy_ssl_certificate {c.node}; proxy_ssl_certificate_key {c.node_key};
        proxy_ssl_trusted_certificate {c.ca}; proxy_ssl_verify on; proxy_ssl_name backend; proxy_ssl_server_name on;
        proxy_ssl_session_reuse on;""" if place.link == "tls" else ""
    return f"""
daemon off;
user root root;
worker_processes 1;
worker_rlimit_nofile {arena.DESCRIPTORS};
pid {place.folder}/nginx.pid;
error_log {place.folder}/nginx-error.log warn;
events {{ worker_connections 14000; }}
http {{
    access_log {place.folder}/nginx-access.log combined buffer=64k flush=1s;
    client_body_temp_path {place.folder}/nginx-body; proxy_temp_path {place.folder}/nginx-proxy;
    fastcgi_temp_path {place.folder}/nginx-fastcgi; uwsgi_temp_path {place.folder}/nginx-uwsgi; scgi_temp_path {place.folder}/nginx-scgi;
    server_tokens off;
    keepalive_requests 100000000; keepalive_timeout {place.idle}s; keepalive_time 24h;
    client_header_timeout {place.first}s; client_body_timeout 30s; send_timeout 30s;
    client_max_body_size 100m; large_client_header_buffers 4 8k;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_ciphers {CIPHERS}; ssl_session_cache shared:site:10m; ssl_session_tickets on;
    limit_conn_zone $binary_remote_addr zone=address:10m;
    limit_conn address 13000;
    upstream web {{
        server 127.0.0.1:{place.backend} max_fails=2 fail_timeout=1s;
        keepalive 256; keepalive_requests 100000000; keepalive_timeout 50s; keepalive_time 24h;
    }}
    server {{
        listen 127.0.0.1:{place.plain} default_server backlog=16384;
        listen 127.0.0.1:{place.tls} ssl default_server backlog=16384;
        http2 on; http2_max_concurrent_streams 100;
        server_name _;
        ssl_certificate {c.site}; ssl_certificate_key {c.site_key};
        return 421;
    }}
    server {{
        listen 127.0.0.1:{place.plain};
        listen 127.0.0.1:{place.tls} ssl;
        http2 on;
        server_name {SITE};
        ssl_certificate {c.site}; ssl_certificate_key {c.site_key};
        location / {{
            proxy_pass {scheme}://web;
            proxy_http_version {version};
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Request-Id $request_id;
            proxy_connect_timeout 5s; proxy_read_timeout 30s; proxy_send_timeout 30s;
            proxy_next_upstream_tries 3;
            # What a client takes too slowly is not written to a disk in between.
            proxy_max_temp_file_size 0;
            {to_backend}
        }}
    }}
    server {{
        listen 127.0.0.1:{place.stats};
        access_log off;
        location / {{ stub_status; }}
    }}
}}
"""


def trivet(place: Place, certificates: Certificates) -> str:
    c = certificates
    web: dict[str, object] = {
        "backends": [{"name": "backend", "address": f"127.0.0.1:{place.backend}"}],
        # A machine that is busy with something else must not look like a back end that is down.
        "connect_timeout": "5s",
        "health": {"interval": "500ms", "timeout": "5s"},
    }
    if place.trusted_framing:
        web["trusted_framing"] = True
    if place.link == "h2":
        web["protocol"] = "h2"
    if place.link == "tls":
        web["tls"] = {"ca": str(c.ca), "certificate": str(c.node), "key": str(c.node_key)}
    return json.dumps({
        "node": "lab", "domain": SITE, "drain_delay": "0s", "shutdown_timeout": "1s",
        "metrics": {"listen": f"127.0.0.1:{place.stats}"},
        "http": {"listen": [f"127.0.0.1:{place.plain}"], "redirect": False},
        "https": {"listen": [f"127.0.0.1:{place.tls}"], "certificate": str(c.site), "key": str(c.site_key),
                  "max_connections": 13000, "max_connections_per_address": 13000,
                  "client_idle_timeout": f"{place.idle}s", "header_timeout": f"{place.first}s"},
        "web": web,
    }, indent=1)


def start(processes: arena.Processes, name: str, server: str, place: Place, certificates: Certificates, root: Path,
          balancer: Path, cores: list[int] | None = None) -> None:
    """Start `server` (one of NAMES) as process `name`, and wait until it serves."""
    place.folder.mkdir(parents=True, exist_ok=True)
    if server == "haproxy":
        config = place.folder / "haproxy.cfg"
        config.write_text(haproxy(place, certificates))
        argv = [*arena.debian(root, "haproxy"), "-db", "-f", str(config)]
    elif server == "nginx":
        config = place.folder / "nginx.conf"
        config.write_text(nginx(place, certificates))
        argv = [*arena.debian(root, "nginx"), "-p", str(place.folder), "-e", f"{place.folder}/nginx-error.log", "-c", str(config)]
    else:
        config = place.folder / "balancer.json"
        config.write_text(trivet(place, certificates))
        argv = [str(balancer), "--config", str(config)]
    processes.start(name, argv, cores)
    processes.wait_for_port(name, place.tls)
    processes.wait_for_port(name, place.plain)


def version(server: str, root: Path, balancer: Path) -> str:
    if server == "haproxy":
        return run([*arena.debian(root, "haproxy"), "-v"]).stdout.split()[2].split("-")[0]
    if server == "nginx":
        return run([*arena.debian(root, "nginx"), "-v"]).stderr.strip().rsplit("/", 1)[-1]
    return run([balancer, "--version"]).stdout.split()[-1]
