# The site is served: by name, at the virtual address, over TLS that verifies, through every tier down to the database.

cluster_up()

with subtest("a page answers at the name, over TLS that verifies"):
    page = client.succeed(f"curl -fsS {SITE}/")
    assert "<html" in page.lower(), page[:300]
    resolved = client.succeed(f"curl -fsS -o /dev/null -w '%{{remote_ip}} %{{ssl_verify_result}}' {SITE}/")
    assert resolved == f"{VIRTUAL_ADDRESS} 0", resolved

with subtest("the certificate is for the name: by address it does not verify"):
    status, _ = client.execute(f"curl -sS -o /dev/null https://{VIRTUAL_ADDRESS}/ 2>/dev/null")
    assert status == 60, f"curl exited with {status}, not with 60 (certificate problem)"

with subtest("HTTP/2 and HTTP/1.1"):
    for flag, version in (("--http2", "2"), ("--http1.1", "1.1")):
        assert client.succeed(f"curl -fsS {flag} -o /dev/null -w '%{{http_version}}' {SITE}/") == version

with subtest("TLS 1.1 is refused"):
    client.fail(f"curl -fsS --tlsv1.1 --tls-max 1.1 -o /dev/null {SITE}/")

with subtest("port 80 sends to https, path and query kept"):
    answer = client.succeed("curl -sS -o /dev/null -w '%{http_code} %{redirect_url}' 'http://www.foobar.com/a/b?c=d'")
    code, target = answer.split()
    assert code in ("301", "308") and target == f"{SITE}/a/b?c=d", answer

with subtest("a static file"):
    head = client.succeed(f"curl -fsS -D - -o /dev/null {SITE}/robots.txt")
    assert "text/plain" in head, head
    etag = next(line.split(":", 1)[1].strip() for line in head.splitlines() if line.lower().startswith("etag:"))
    answer = client.succeed(f"curl -sS -o /dev/null -w '%{{http_code}}' -H {shlex.quote(f'If-None-Match: {etag}')} {SITE}/robots.txt")
    assert answer == "304", answer

with subtest("write, then read what was written"):
    body = shlex.quote(json.dumps({"name": USER, "password": PASSWORD}))
    token = json.loads(client.succeed(f"curl -fsS {SITE}/api/login --json {body}"))["token"]
    article = shlex.quote(json.dumps({"title": "First light", "body": "Carried by *three* machines."}))
    said = client.succeed(f"curl -fsS -i --http1.1 {SITE}/api/articles -H 'Authorization: Bearer {token}' --json {article}")
    head, answer = said.replace("\r", "").rsplit("\n\n", 1)
    written = json.loads(answer)
    # Who wrote sees it at once, whichever replica answers: the answer says how fresh the next read must be.
    fresh = next(line for line in head.splitlines() if line.lower().startswith("trivet-gtid:"))
    for _again in range(6):
        page = client.succeed(f"curl -fsS {SITE}/articles/{written['slug']} -H {shlex.quote(fresh)}")
        assert "First light" in page and "<em>three</em>" in page, page[:2000]

with subtest("what was written is on every member"):
    for node in NODES:
        poll(lambda node=node: try_sql(node, f"SELECT title FROM trivet.articles WHERE slug = '{written['slug']}'") == "First light",
             f"{node.name} has the article", 30)

with subtest("every node's balancer reaches every node's web tier"):
    for node in NODES:
        assert node.succeed("curl -fsS -o /dev/null -w '%{http_code}' http://127.0.0.1:9611/healthz/backends") == "200"

with subtest("a reload with a certificate that cannot be used fails and changes nothing; once it is mended, the next one succeeds"):
    node, site = NODES[0], "/var/lib/trivet/secrets/site.pem"
    node.succeed(f"cp -a {site} {site}.good && head -c 100 {site}.good > {site}")
    node.fail("systemctl reload trivet-balancer")
    said = node.succeed("journalctl --unit=trivet-balancer --output=cat --lines=50")
    assert "site.pem" in said, said
    client.succeed(f"curl -fsS -o /dev/null {SITE}/")
    poll(lambda: "is not used, the former stays" in node.execute("trivet status")[1], "status tells", 20)
    node.succeed(f"mv {site}.good {site}")
    node.succeed("systemctl reload trivet-balancer")
    client.succeed(f"curl -fsS -o /dev/null {SITE}/")
    poll(lambda: "is not used" not in node.execute("trivet status")[1], "status has nothing to tell any more", 20)

with subtest("a renewed certificate is served after a reload"):
    node, secrets = NODES[0], "/var/lib/trivet/secrets"
    domain = SITE.removeprefix("https://")
    node.succeed(
        f"cd {secrets} && cp -a site.pem site.pem.before && cp -a site.key site.key.before && "
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 "
        f"-subj /CN={domain} -addext subjectAltName=DNS:{domain} -keyout new.key -out new.pem 2>/dev/null && "
        "mv new.key site.key && mv new.pem site.pem"
    )
    node.succeed("systemctl reload trivet-balancer")
    wanted = node.succeed(f"openssl x509 -in {secrets}/site.pem -noout -fingerprint -sha256").strip()

    def shown():
        connect = f"openssl s_client -connect {ADDRESSES[node.name]}:443 -servername {domain} </dev/null 2>/dev/null"
        return client.execute(f"{connect} | openssl x509 -noout -fingerprint -sha256")[1].strip()

    assert shown() == wanted, (shown(), wanted)
    node.succeed(f"cd {secrets} && mv site.pem.before site.pem && mv site.key.before site.key && systemctl reload trivet-balancer")
    assert shown() != wanted

with subtest("steady state, as the client sees it"):
    start_probe("steady", reads=20, keepalive=4, writes=5)
    client.sleep(5)
    seen = stop_probe("steady")
    measured("nothing breaks", seen, lost=nothing_lost(seen))
    no_failures("nothing breaks", seen, "reads", "keepalive", "writes")
