//! The same bytes mean the same, however the network cuts them (RFC 9112 section 2.2 parses a sequence of octets, not of
//! packets). TLS records are the pieces here.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use support::link::{End, Message};
use support::scene::{Scene, with_host};

/// What a connection came to: what the back end saw, and what the client got, without what differs by nature.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    seen: Vec<Message>,
    told: String,
    end: End,
}

const CONNECTIONS: &[&[u8]] = &[
    b"GET /a HTTP/1.1\r\n{H}\r\nGET /b HTTP/1.1\r\n{H}Connection: close\r\n\r\n",
    b"\r\nPOST /a HTTP/1.1\r\n{H}Content-Length: 11\r\n\r\nhello\r\n\r\nabPUT /b HTTP/1.1\r\n{H}Connection: close\r\nContent-Length: 0\r\n\r\n",
    b"POST /a HTTP/1.1\r\n{H}Transfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n00a\r\n0123456789\r\n0\r\nX-Sum:  abc \r\n\r\nGET /b HTTP/1.0\r\n{H}\r\n",
    b"GET https://www.foobar.com/a?b HTTP/1.1\r\n{H}X-Empty:\r\nX-Odd: \x80\xff\r\nConnection: close, X-Empty\r\n\r\n",
    b"GET /a HTTP/1.1\r\n{H}\r\nGET /bad HTTP/1.1\r\n{H}X : y\r\n\r\nGET /never HTTP/1.1\r\n{H}\r\n",
    b"POST /a HTTP/1.1\r\n{H}Content-Length: 5\r\n\r\nhelloPOST /bad HTTP/1.1\r\n{H}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /a HTTP/1.1\r\n{H}\r\nGET /bad HTTP/1.1\nHost: x\n\n",
    b"GET /a HTTP/1.1\r\n{H}\r\n\r\nGET /b HTTP/1.1\r\n{H}\r\nGARBAGE\r\n\r\n",
    b"HEAD /a HTTP/1.1\r\n{H}\r\nGET /b HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
];

async fn outcome(scene: &Scene, pieces: Vec<&[u8]>) -> Outcome {
    let before = scene.origin().seen().len();
    let mut link = scene.open().await;
    for piece in pieces {
        // Every piece is a record of its own; the reader takes what is there, so pieces join only by chance of timing.
        if !link.try_send(piece).await {
            break;
        }
        tokio::task::yield_now().await;
    }
    let (told, end) = link.rest().await;
    let varies = ["x-request-id:", "date:"];
    let keep = |line: &&str| !varies.iter().any(|v| line.to_ascii_lowercase().starts_with(v));
    let told = String::from_utf8_lossy(&told).into_owned();
    // The number of the request stands in our own pages, too.
    let told = told.split("\r\n").filter(keep).map(without_ids).collect::<Vec<_>>().join("\r\n");
    let mut seen = scene.origin().seen().split_off(before);
    for message in &mut seen {
        let text: Vec<Vec<u8>> = message
            .head
            .split(|b| *b == b'\n')
            .filter(|line| !line.to_ascii_lowercase().starts_with(b"x-request-id:"))
            .map(<[u8]>::to_vec)
            .collect();
        message.head = text.join(&b'\n');
    }
    Outcome { seen, told, end }
}

/// Runs of 32 hexadecimal digits become `ID`.
fn without_ids(text: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_hexdigit() {
            run.push(c);
            continue;
        }
        out.push_str(if run.len() == 32 { "ID" } else { &run });
        run.clear();
        out.push(c);
    }
    out
}

fn cut<'a>(bytes: &'a [u8], random: &mut StdRng) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(random.random_range(1..=rest.len().min(40)));
        pieces.push(piece);
        rest = more;
    }
    pieces
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_2_2_the_same_bytes_cut_anywhere_give_the_same_result() {
    let scene = Scene::new().await;
    // HEAD and GET alike: the length is told and, for HEAD, the bytes are the next answer's.
    scene.origin().answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-From: back end\r\n\r\n");
    let mut random = StdRng::seed_from_u64(9112);
    for connection in CONNECTIONS {
        let bytes = with_host(connection);
        let whole = outcome(&scene, vec![&bytes]).await;
        assert!(!whole.told.is_empty(), "{}", bytes.escape_ascii());
        let by_byte = outcome(&scene, bytes.chunks(1).collect()).await;
        assert_eq!(whole, by_byte, "byte by byte: {}", bytes.escape_ascii());
        for _ in 0..6 {
            let pieces = cut(&bytes, &mut random);
            let shown: Vec<String> = pieces.iter().map(|p| p.escape_ascii().to_string()).collect();
            assert_eq!(whole, outcome(&scene, pieces).await, "cut as {shown:?}");
        }
        // Each line end cut in two.
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        while let Some(at) = rest.iter().position(|b| *b == b'\r') {
            let (piece, more) = rest.split_at(at + 1);
            pieces.push(piece);
            rest = more;
        }
        pieces.push(rest);
        assert_eq!(whole, outcome(&scene, pieces).await, "cut in the line ends: {}", bytes.escape_ascii());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9112_2_2_an_answer_cut_anywhere_reaches_the_client_the_same() {
    let scene = Scene::new().await;
    let mut random = StdRng::seed_from_u64(2);
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: \xff\r\n\r\nhello"[..],
        b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;e\r\nhello\r\n03\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    ] {
        let mut former = None;
        for nth in 0..8 {
            let pieces = match nth {
                0 => vec![answer],
                1 => answer.chunks(1).collect(),
                _ => cut(answer, &mut random),
            };
            scene.origin().waits();
            let mut link = scene.open().await;
            link.send(with_host(b"GET / HTTP/1.1\r\n{H}\r\n")).await;
            let (_, mut upstream) = scene.origin().next().await;
            for piece in pieces {
                upstream.send(piece).await;
                tokio::task::yield_now().await;
            }
            let mut got = Vec::new();
            loop {
                let mut message = link.answer().await.unwrap();
                let last = message.status() >= 200;
                let varies = |line: &[u8]| {
                    let line = line.to_ascii_lowercase();
                    line.starts_with(b"x-request-id:") || line.starts_with(b"date:")
                };
                let text = message.head.split(|b| *b == b'\n').filter(|line| !varies(line));
                message.head = text.collect::<Vec<_>>().join(&b'\n');
                got.push(message);
                if last {
                    break;
                }
            }
            let former = former.get_or_insert_with(|| got.clone());
            assert_eq!(*former, got, "{}", answer.escape_ascii());
        }
    }
}
