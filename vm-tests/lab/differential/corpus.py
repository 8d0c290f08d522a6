"""The byte streams. Each is one connection's worth; `section` is the rule it is about."""

from dataclasses import dataclass

HOST = b"Host: www.foobar.com\r\n"


@dataclass(frozen=True)
class Case:
    name: str
    section: str
    data: bytes
    # Which answers, counted from 0, have no body because they answer HEAD.
    bodiless: frozenset[int] = frozenset()


def _get(target: bytes = b"/a", more: bytes = b"", version: bytes = b"HTTP/1.1", host: bytes = HOST) -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + host + more + b"\r\n"


def _post(more: bytes, body: bytes, target: bytes = b"/p") -> bytes:
    return b"POST " + target + b" HTTP/1.1\r\n" + HOST + more + b"\r\n" + body


SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
NEXT = _get(b"/next")
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def _framing() -> list[Case]:
    s63, s61, s112 = "RFC 9112 6.3", "RFC 9112 6.1", "RFC 9110 8.6"
    cases = [
        Case("cl-te", s63, _post(b"Content-Length: 6\r\n" + CHUNKED, b"0\r\n\r\nG" + NEXT)),
        Case("te-cl", s63, _post(CHUNKED + b"Content-Length: 4\r\n", b"1d\r\n" + SMUGGLED[:29] + b"\r\n0\r\n\r\n")),
        Case("cl-0-te", s63, _post(b"Content-Length: 0\r\n" + CHUNKED, b"5\r\nhello\r\n0\r\n\r\n")),
        Case("get-cl-te", s63, _get(b"/a", b"Content-Length: 5\r\n" + CHUNKED) + b"0\r\n\r\n" + SMUGGLED),
        Case("get-with-body", s63, _get(b"/a", b"Content-Length: 5\r\n") + b"hello" + NEXT),
        Case("post-without-length", s63, _post(b"", b"") + NEXT),
        Case("http10-chunked", s61, b"POST /p HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n"),
        Case("cl-twice-same", s112, _post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello")),
        Case("cl-twice-other", s112, _post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello!")),
        Case("cl-list-same", s112, _post(b"Content-Length: 5, 5\r\n", b"hello")),
        Case("cl-list-other", s112, _post(b"Content-Length: 5, 6\r\n", b"hello!")),
        Case("cl-short-body-then-request", s63, _post(b"Content-Length: 5\r\n", b"hello") + NEXT),
        Case("cl-incomplete", s63, _post(b"Content-Length: 10\r\n", b"hello")),
    ]
    for name, value in {
        "plus": b"+5", "minus": b"-5", "space-inside": b"5 5", "hex": b"0x5", "empty": b"", "float": b"5.0", "comma": b"5,",
        "leading-zeros": b"0000005", "trailing-space": b"5 ", "leading-tab": b"\t5", "letters": b"5a", "underscore": b"1_0",
        "quoted": b'"5"', "overflow-64": b"18446744073709551621", "overflow-63": b"9223372036854775813", "arabic": "٥".encode(),
        "vertical-tab": b"\x0b5", "nul": b"5\x00", "line-separator": b"5\x85",
    }.items():
        cases.append(Case(f"cl-{name}", s112, _post(b"Content-Length: " + value + b"\r\n", b"hello") + NEXT))
    for name, line in {
        "identity": b"Transfer-Encoding: identity\r\n", "gzip-chunked": b"Transfer-Encoding: gzip, chunked\r\n",
        "chunked-twice": b"Transfer-Encoding: chunked, chunked\r\n", "two-lines": CHUNKED + CHUNKED,
        "chunked-identity": CHUNKED + b"Transfer-Encoding: identity\r\n", "upper": b"Transfer-Encoding: CHUNKED\r\n",
        "x-chunked": b"Transfer-Encoding: xchunked\r\n", "space-before-colon": b"Transfer-Encoding : chunked\r\n",
        "tab-before-value": b"Transfer-Encoding:\tchunked\r\n", "quoted": b'Transfer-Encoding: "chunked"\r\n',
        "single-quoted": b"Transfer-Encoding: 'chunked'\r\n",
        "trailing-comma": b"Transfer-Encoding: chunked,\r\n", "leading-comma": b"Transfer-Encoding: ,chunked\r\n",
        "parameter": b"Transfer-Encoding: chunked;x=y\r\n", "vertical-tab": b"Transfer-Encoding: \x0bchunked\r\n",
        "nul": b"Transfer-Encoding: chunked\x00\r\n", "leading-space-line": b" Transfer-Encoding: chunked\r\n",
        "obs-fold": b"Transfer-Encoding:\r\n chunked\r\n", "fold-after-other": b"X: y\r\n Transfer-Encoding: chunked\r\n",
        "underscore": b"Transfer_Encoding: chunked\r\n", "bare-lf-before": b"X: y\nTransfer-Encoding: chunked\r\n",
        "bare-cr-before": b"X: y\rTransfer-Encoding: chunked\r\n", "semicolon-name": b"Transfer-Encoding;: chunked\r\n",
        "empty": b"Transfer-Encoding:\r\n", "control-name": b"\x01Transfer-Encoding: chunked\r\n",
    }.items():
        # With a length beside it, whoever ignores the coding reads five bytes and then a smuggled request.
        cases.append(Case(f"te-{name}", s61, _post(line, b"0\r\n\r\n") + NEXT))
        cases.append(Case(f"te-{name}-and-cl", s61, _post(b"Content-Length: 5\r\n" + line, b"0\r\n\r\n" + SMUGGLED)))
    return cases


def _chunks() -> list[Case]:
    section = "RFC 9112 7.1"
    cases = {
        "plain": b"5\r\nhello\r\n0\r\n\r\n", "upper-hex": b"A\r\nhellohello\r\n0\r\n\r\n", "leading-zeros": b"0005\r\nhello\r\n0\r\n\r\n",
        "many-zeros": b"0" * 40 + b"5\r\nhello\r\n0\r\n\r\n", "overflow-64": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        "overflow-32": b"100000005\r\nhello\r\n0\r\n\r\n", "negative": b"-5\r\nhello\r\n0\r\n\r\n", "plus": b"+5\r\nhello\r\n0\r\n\r\n",
        "hex-prefix": b"0x5\r\nhello\r\n0\r\n\r\n", "space-after-size": b"5 \r\nhello\r\n0\r\n\r\n",
        "space-before-size": b" 5\r\nhello\r\n0\r\n\r\n", "no-size": b"\r\nhello\r\n0\r\n\r\n", "not-hex": b"g\r\nhello\r\n0\r\n\r\n",
        "extension": b"5;a=b\r\nhello\r\n0\r\n\r\n", "extension-quoted": b'5;a="b;c"\r\nhello\r\n0\r\n\r\n',
        "extension-long": b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n", "extension-bare-lf": b"5;a\nhello\r\n0\r\n\r\n",
        "extension-bare-cr": b"5;a\rb\r\nhello\r\n0\r\n\r\n", "extension-nul": b"5;a\x00\r\nhello\r\n0\r\n\r\n",
        "extension-smuggle": b"2;\nxx\r\n42\r\n0\r\n\r\n" + SMUGGLED,
        "bare-lf-after-size": b"5\nhello\r\n0\r\n\r\n", "bare-cr-after-size": b"5\rhello\r\n0\r\n\r\n",
        "bare-lf-after-data": b"5\r\nhello\n0\r\n\r\n", "bare-cr-after-data": b"5\r\nhello\r0\r\n\r\n", "no-crlf-after-data": b"5\r\nhello0\r\n\r\n",
        "longer-than-size": b"5\r\nhelloworld\r\n0\r\n\r\n", "other-two-bytes-after-data": b"5\r\nhelloxx0\r\n\r\n",
        "bare-lf-at-end": b"5\r\nhello\r\n0\r\n\n", "all-bare-lf": b"5\nhello\n0\n\n",
        "trailers": b"5\r\nhello\r\n0\r\nX-Trailer: t\r\n\r\n", "trailer-length": b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n",
        "trailer-bad-name": b"5\r\nhello\r\n0\r\nX Trailer: t\r\n\r\n", "trailer-no-colon": b"5\r\nhello\r\n0\r\nX-Trailer\r\n\r\n",
        "trailer-bare-lf": b"5\r\nhello\r\n0\r\nX-Trailer: t\n\r\n", "trailer-fold": b"5\r\nhello\r\n0\r\nX: t\r\n u\r\n\r\n",
        "trailer-nul": b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n", "trailer-large": b"5\r\nhello\r\n0\r\nX: " + b"t" * 100_000 + b"\r\n\r\n",
        "incomplete": b"5\r\nhel", "no-last-chunk": b"5\r\nhello\r\n", "size-with-semicolon-only": b"5;\r\nhello\r\n0\r\n\r\n",
        "last-chunk-many-zeros": b"5\r\nhello\r\n0000\r\n\r\n", "size-17-digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    }
    made = [Case(f"chunk-{name}", section, _post(CHUNKED, body) + NEXT) for name, body in cases.items()]
    many = b"".join(b"1\r\nx\r\n" for _ in range(3000)) + b"0\r\n\r\n"
    return [*made, Case("chunk-many-small", section, _post(CHUNKED, many) + NEXT)]


def _heads() -> list[Case]:
    s22, s5, s51, s52 = "RFC 9112 2.2", "RFC 9110 5.5", "RFC 9112 5.1", "RFC 9112 5.2"
    cases = [
        Case("plain", "RFC 9112 3", _get()),
        Case("lower-case-method", "RFC 9110 9.1", b"get /a HTTP/1.1\r\n" + HOST + b"\r\n"),
        Case("unknown-method", "RFC 9110 9.1", b"FROB /a HTTP/1.1\r\n" + HOST + b"\r\n"),
        Case("method-with-bad-character", "RFC 9110 9.1", b"GE(T /a HTTP/1.1\r\n" + HOST + b"\r\n"),
        Case("method-long", "RFC 9110 9.1", b"A" * 200 + b" /a HTTP/1.1\r\n" + HOST + b"\r\n"),
        Case("bare-lf-request-line", s22, b"GET /a HTTP/1.1\n" + HOST + b"\r\n"),
        Case("bare-lf-field", s22, b"GET /a HTTP/1.1\r\nHost: www.foobar.com\nX: y\r\n\r\n"),
        Case("bare-lf-end", s22, b"GET /a HTTP/1.1\r\n" + HOST + b"\n"),
        Case("bare-lf-all", s22, b"GET /a HTTP/1.1\nHost: www.foobar.com\n\n"),
        Case("bare-cr-field", s22, b"GET /a HTTP/1.1\r\nX: a\rb\r\n" + HOST + b"\r\n"),
        Case("bare-cr-request-line", s22, b"GET /a HTTP/1.1\r" + HOST + b"\r\n"),
        Case("cr-cr-lf", s22, b"GET /a HTTP/1.1\r\r\n" + HOST + b"\r\n"),
        Case("one-empty-line-first", s22, b"\r\n" + _get()),
        Case("two-empty-lines-first", s22, b"\r\n\r\n" + _get()),
        Case("bare-lf-first", s22, b"\n" + _get()),
        Case("empty-line-between", s22, _get() + b"\r\n" + NEXT),
        Case("space-first", s22, b" " + _get()),
        Case("white-space-line-after-request-line", s22, b"GET /a HTTP/1.1\r\n \r\n" + HOST + b"\r\n"),
        Case("obs-fold", s52, b"GET /a HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n"),
        Case("obs-fold-tab", s52, b"GET /a HTTP/1.1\r\n" + HOST + b"X: a\r\n\tb\r\n\r\n"),
        Case("obs-fold-host", s52, b"GET /a HTTP/1.1\r\nHost:\r\n www.foobar.com\r\n\r\n"),
        Case("space-before-colon", s51, _get(more=b"X : y\r\n")),
        Case("tab-before-colon", s51, _get(more=b"X\t: y\r\n")),
        Case("space-in-name", s51, _get(more=b"X Y: z\r\n")),
        Case("no-colon", s51, _get(more=b"XY\r\n")),
        Case("empty-name", s51, _get(more=b": y\r\n")),
        Case("empty-value", s51, _get(more=b"X:\r\n")),
        Case("underscore-name", s51, _get(more=b"X_Y: z\r\n")),
        Case("underscore-forwarded-for", s51, _get(more=b"X_Forwarded_For: 192.0.2.1\r\n")),
        Case("non-ascii-name", s51, _get(more="Ü: y\r\n".encode())),
        Case("semicolon-name", s51, _get(more=b"X;Y: z\r\n")),
        Case("quote-name", s51, _get(more=b'"X": z\r\n')),
        Case("nul-in-value", s5, _get(more=b"X: a\x00b\r\n")),
        Case("nul-in-name", s5, _get(more=b"X\x00: b\r\n")),
        Case("control-in-value", s5, _get(more=b"X: a\x01b\r\n")),
        Case("del-in-value", s5, _get(more=b"X: a\x7fb\r\n")),
        Case("escape-in-value", s5, _get(more=b"X: \x1b[31m\r\n")),
        Case("obs-text-in-value", s5, _get(more=b"X: \xff\xfe\r\n")),
        Case("tab-in-value", s5, _get(more=b"X: a\tb\r\n")),
        Case("fields-60", "RFC 9110 5.4", _get(more=b"".join(b"X-%d: y\r\n" % n for n in range(60)))),
        Case("fields-150", "RFC 9110 5.4", _get(more=b"".join(b"X-%d: y\r\n" % n for n in range(150)))),
        Case("field-6k", "RFC 9110 5.4", _get(more=b"X: " + b"y" * 6000 + b"\r\n")),
        Case("field-20k", "RFC 9110 5.4", _get(more=b"X: " + b"y" * 20_000 + b"\r\n")),
        Case("head-64k", "RFC 9110 5.4", _get(more=b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(64)))),
        Case("head-without-end", "RFC 9110 5.4", b"GET /a HTTP/1.1\r\n" + b"X: y\r\n" * 40_000),
        Case("garbage", "RFC 9112 3", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n"),
        Case("http2-preface", "RFC 9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    ]
    for name, version in {"0.9": b"HTTP/0.9", "1.0": b"HTTP/1.0", "1.2": b"HTTP/1.2", "2.0": b"HTTP/2.0", "3.0": b"HTTP/3.0", "lower": b"http/1.1",
                          "two-digits": b"HTTP/1.10", "leading-zero": b"HTTP/01.1", "other": b"HTPP/1.1", "comma": b"HTTP/1,1"}.items():
        cases.append(Case(f"version-{name}", "RFC 9112 2.3", _get(version=version)))
    cases += [
        Case("version-none", "RFC 9112 3", b"GET /a\r\n"),
        Case("version-none-with-host", "RFC 9112 3", b"GET /a\r\n" + HOST + b"\r\n"),
        Case("request-line-two-spaces", "RFC 9112 3", b"GET  /a HTTP/1.1\r\n" + HOST + b"\r\n"),
        Case("request-line-tab", "RFC 9112 3", b"GET\t/a\tHTTP/1.1\r\n" + HOST + b"\r\n"),
        Case("request-line-trailing-space", "RFC 9112 3", b"GET /a HTTP/1.1 \r\n" + HOST + b"\r\n"),
        Case("request-line-four-words", "RFC 9112 3", b"GET /a /b HTTP/1.1\r\n" + HOST + b"\r\n"),
    ]
    return cases


def _targets() -> list[Case]:
    s32, s33 = "RFC 9112 3.2", "RFC 9110 7.2"
    cases = [
        Case("host-none", s33, _get(host=b"")),
        Case("host-none-http10", s33, _get(host=b"", version=b"HTTP/1.0")),
        Case("host-twice-same", s33, _get(host=HOST + HOST)),
        Case("host-twice-other", s33, _get(host=HOST + b"Host: evil.example\r\n")),
        Case("host-empty", s33, _get(host=b"Host:\r\n")),
        Case("host-other", s33, _get(host=b"Host: evil.example\r\n")),
        Case("host-upper", s33, _get(host=b"Host: WWW.FooBar.COM\r\n")),
        Case("host-port", s33, _get(host=b"Host: www.foobar.com:8080\r\n")),
        Case("host-port-letters", s33, _get(host=b"Host: www.foobar.com:80x\r\n")),
        Case("host-port-large", s33, _get(host=b"Host: www.foobar.com:99999\r\n")),
        Case("host-dot", s33, _get(host=b"Host: www.foobar.com.\r\n")),
        Case("host-userinfo", s33, _get(host=b"Host: evil@www.foobar.com\r\n")),
        Case("host-path", s33, _get(host=b"Host: www.foobar.com/evil\r\n")),
        Case("host-comma", s33, _get(host=b"Host: www.foobar.com, evil.example\r\n")),
        Case("host-space", s33, _get(host=b"Host: www.foobar.com evil\r\n")),
        Case("absolute", s32, _get(b"http://www.foobar.com/a?b")),
        Case("absolute-other-host-field", s32, _get(b"http://www.foobar.com/a", host=b"Host: evil.example\r\n")),
        Case("absolute-other-authority", s32, _get(b"http://evil.example/a")),
        Case("absolute-no-host-field", s32, _get(b"http://www.foobar.com/a", host=b"")),
        Case("absolute-no-path", s32, _get(b"http://www.foobar.com")),
        Case("absolute-query-no-path", s32, _get(b"http://www.foobar.com?x")),
        Case("absolute-userinfo", s32, _get(b"http://user@www.foobar.com/a")),
        Case("absolute-https", s32, _get(b"https://www.foobar.com/a")),
        Case("absolute-ftp", s32, _get(b"ftp://www.foobar.com/a")),
        Case("absolute-upper-scheme", s32, _get(b"HTTP://www.foobar.com/a")),
        Case("absolute-no-authority", s32, _get(b"http:///a")),
        Case("authority-form", s32, _get(b"www.foobar.com:80")),
        Case("no-slash", s32, _get(b"a")),
        Case("asterisk-get", s32, _get(b"*")),
        Case("asterisk-options", s32, b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n"),
        Case("empty-target", s32, b"GET  HTTP/1.1\r\n" + HOST + b"\r\n"),
        Case("backslash", s32, _get(b"/a\\..\\b")),
        Case("question-only", s32, _get(b"/?")),
        Case("query-with-slashes", s32, _get(b"/a?b=/../c#")),
    ]
    for name, target in {
        "fragment": b"/a#b", "dot": b"/a/./b", "dot-dot": b"/a/../b", "dot-dot-first": b"/../a", "dot-dot-last": b"/a/..",
        "dot-encoded": b"/a/%2e%2e/b", "dot-mixed": b"/a/.%2E/b", "dot-double-encoded": b"/a/%252e%252e/b", "dot-parameter": b"/a/..;x/b",
        "dot-slash-encoded": b"/a/..%2fb", "double-slash": b"//a//b", "double-slash-host": b"//evil.example/a", "nul-encoded": b"/a%00b",
        "crlf-encoded": b"/a%0d%0aX:y", "bad-percent": b"/a%zz", "half-percent": b"/a%2", "nul": b"/a\x00b", "control": b"/a\x01b",
        "non-ascii": "/ä".encode(), "del": b"/a\x7f", "quote": b'/a"b', "angle": b"/a<b>", "brace": b"/{a}", "pipe": b"/a|b", "caret": b"/a^b",
        "back-tick": b"/a`b", "slash-encoded": b"/a%2fb", "long-7k": b"/" + b"a" * 7000, "long-12k": b"/" + b"a" * 12_000, "semicolon": b"/a;b=c",
        "three-dots": b"/.../a", "colon-first-segment": b"/a:b",
    }.items():
        cases.append(Case(f"target-{name}", s32, _get(target)))
    return cases


def _semantics() -> list[Case]:
    hop = "RFC 9110 7.6.1"
    large = b"x" * 100_000
    return [
        Case("trace", "RFC 9110 9.3.8", b"TRACE /a HTTP/1.1\r\n" + HOST + b"\r\n"),
        Case("connect", "RFC 9110 9.3.6", b"CONNECT www.foobar.com:443 HTTP/1.1\r\nHost: www.foobar.com:443\r\n\r\n"),
        Case("connect-path", "RFC 9110 9.3.6", b"CONNECT /a HTTP/1.1\r\n" + HOST + b"\r\n"),
        Case("http10-closes", "RFC 9112 9.3", _get(version=b"HTTP/1.0") + NEXT),
        Case("http10-keep-alive", "RFC 9112 9.3", _get(version=b"HTTP/1.0", more=b"Connection: keep-alive\r\n") + NEXT),
        Case("connection-close", "RFC 9112 9.6", _get(more=b"Connection: close\r\n") + NEXT),
        Case("pipelined-gets", "RFC 9112 9.3.2", _get(b"/1") + _get(b"/2") + _get(b"/3")),
        Case("pipelined-bodies", "RFC 9112 9.3.2", _post(b"Content-Length: 3\r\n", b"one", b"/1") + _post(CHUNKED, b"3\r\ntwo\r\n0\r\n\r\n", b"/2") + NEXT),
        Case("pipelined-then-bad", "RFC 9112 9.3.2", _get(b"/1") + b"BAD\r\n\r\n" + NEXT),
        Case("head", "RFC 9110 9.3.2", b"HEAD /a HTTP/1.1\r\n" + HOST + b"\r\n" + NEXT, frozenset({0})),
        Case("head-with-body", "RFC 9110 9.3.2", b"HEAD /a HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello" + NEXT, frozenset({0})),
        Case("delete-with-body", "RFC 9110 9.3.5", b"DELETE /a HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello" + NEXT),
        Case("expect-continue", "RFC 9110 10.1.1", _post(b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"hello")),
        Case("expect-upper", "RFC 9110 10.1.1", _post(b"Expect: 100-CONTINUE\r\nContent-Length: 5\r\n", b"hello")),
        Case("expect-other", "RFC 9110 10.1.1", _post(b"Expect: magic\r\nContent-Length: 5\r\n", b"hello")),
        Case("expect-without-body", "RFC 9110 10.1.1", _get(more=b"Expect: 100-continue\r\n")),
        Case("upgrade-h2c", "RFC 9113 3.1", _get(more=b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n") + NEXT),
        Case("upgrade-not-nominated", "RFC 9110 7.8", _get(more=b"Upgrade: websocket\r\n") + NEXT),
        Case("connection-nominates-host", hop, _get(more=b"Connection: Host\r\n")),
        Case("connection-nominates-length", hop, _post(b"Connection: Content-Length\r\nContent-Length: 5\r\n", b"hello") + NEXT),
        Case("connection-nominates-coding", hop, _post(b"Connection: Transfer-Encoding\r\n" + CHUNKED, b"5\r\nhello\r\n0\r\n\r\n") + NEXT),
        Case("connection-nominates-forwarded", hop, _get(more=b"Connection: X-Forwarded-For, X-Real-IP\r\n")),
        Case("connection-nominates-own", hop, _get(more=b"Connection: X-Hop\r\nX-Hop: y\r\n")),
        Case("te-trailers", hop, _get(more=b"TE: trailers\r\n")),
        Case("te-gzip", hop, _get(more=b"TE: gzip\r\n")),
        Case("proxy-connection", hop, _get(more=b"Proxy-Connection: keep-alive\r\n")),
        Case("forged-forwarded", "RFC 7239 8.1", _get(more=b"X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n")),
        Case("forged-request-id", "-", _get(more=b"X-Request-Id: forged\r\n")),
        Case("body-100k-length", "RFC 9112 6.2", _post(b"Content-Length: 100000\r\n", large) + NEXT),
        Case("body-100k-chunked", "RFC 9112 7.1", _post(CHUNKED, b"186a0\r\n" + large + b"\r\n0\r\n\r\n") + NEXT),
        Case("body-too-large", "RFC 9110 15.5.14", _post(b"Content-Length: 104857601\r\n", b"x" * 1000)),
        Case("max-forwards", "RFC 9110 7.6.2", b"OPTIONS /a HTTP/1.1\r\n" + HOST + b"Max-Forwards: 0\r\n\r\n"),
    ]


# What the back end says, by name: bytes, and whether its connection lives on.
ANSWERS: dict[str, tuple[bytes, bool]] = {
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    "204-with-length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", False),
    "304": (b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", True),
    "304-with-length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", True),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", True),
    "chunked-trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: u\r\n\r\n", True),
    "until-close": (b"HTTP/1.1 200 OK\r\n\r\nhello", False),
    "until-close-http10": (b"HTTP/1.0 200 OK\r\n\r\nhello", False),
    "103": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
    "100-unasked": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
    "101-unasked": (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", False),
    "cl-and-te": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", False),
    "two-lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", False),
    "two-lengths-same": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", False),
    "bad-length": (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", False),
    "gzip-coding": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello", False),
    "too-short": (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", False),
    "too-long": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nextra", False),
    "chunked-cut": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", False),
    "chunked-no-end": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", False),
    "chunk-size-bad": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", False),
    "status-line-bad": (b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok", False),
    "status-four-digits": (b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", False),
    "status-099": (b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok", False),
    "version-bad": (b"HTTX/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
    "http2-version": (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
    "no-reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", True),
    "bare-lf": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", False),
    "obs-fold": (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", False),
    "nul": (b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok", False),
    "space-before-colon": (b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", False),
    "no-colon": (b"HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\nok", False),
    "head-large": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\nContent-Length: 2\r\n\r\nok", False),
    "nothing": (b"", False),
    "half-head": (b"HTTP/1.1 200 OK\r\nContent-", False),
}


def all_cases() -> list[Case]:
    answers = [Case(f"answer-{name}", "RFC 9112 6.3", _get(b"/raw/" + name.encode()) + NEXT) for name in ANSWERS]
    answers.append(Case("answer-chunked-to-http10", "RFC 9112 7.1", _get(b"/raw/chunked", version=b"HTTP/1.0")))
    answers.append(Case("answer-103-to-http10", "RFC 9110 15.2", _get(b"/raw/103", version=b"HTTP/1.0")))
    answers.append(Case("answer-until-close-to-http10", "RFC 9112 6.3", _get(b"/raw/until-close", version=b"HTTP/1.0")))
    return [*_heads(), *_framing(), *_chunks(), *_targets(), *_semantics(), *answers]
