//! Streams: RFC 9113 sections 5.1, 6.1 and 6.4.

use super::peer::*;
use Expect::{Answers, GoAway, Reset, Serves};
use support::scene::Scene;

const ONE: [u8; 4] = [0, 0, 0, 1];

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_1_an_idle_stream_takes_only_headers_and_priority() {
    check(&[
        ("DATA", frame(DATA, END_STREAM, 1, b"x"), GoAway(&[PROTOCOL_ERROR, STREAM_CLOSED])),
        ("RST_STREAM", frame(RST_STREAM, 0, 1, [0, 0, 0, 8]), GoAway(&[PROTOCOL_ERROR])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 1, ONE), GoAway(&[PROTOCOL_ERROR])),
        ("CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, get("/")), GoAway(&[PROTOCOL_ERROR])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_1_a_half_closed_stream_takes_no_data_and_no_headers() {
    // The back end does not answer, so that the stream stays half closed.
    let scene = Scene::new().await;
    scene.origin().waits();
    check_in(
        &scene,
        &[
            ("DATA", [request(1), frame(DATA, END_STREAM, 1, b"x")].concat(), Reset(1, &[STREAM_CLOSED])),
            ("HEADERS", [request(1), request(1)].concat(), Reset(1, &[STREAM_CLOSED])),
            (
                "CONTINUATION",
                [request(1), frame(CONTINUATION, END_HEADERS, 1, get("/"))].concat(),
                Reset(1, &[STREAM_CLOSED, PROTOCOL_ERROR]),
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_1_a_closed_stream_takes_nothing_but_priority_window_update_and_reset() {
    let reset = frame(RST_STREAM, 0, 1, [0, 0, 0, 8]);
    check(&[
        ("HEADERS after a reset", [open(1), reset.clone(), request(1)].concat(), Reset(1, &[STREAM_CLOSED])),
        (
            "CONTINUATION after a reset",
            [open(1), reset.clone(), frame(CONTINUATION, END_HEADERS, 1, get("/"))].concat(),
            Reset(1, &[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        ("a second reset", [open(1), reset.clone(), reset.clone()].concat(), Serves(3)),
        (
            "WINDOW_UPDATE after a reset",
            [open(1), reset, frame(WINDOW_UPDATE, 0, 1, ONE)].concat(),
            Serves(3),
        ),
    ])
    .await;
    // After a whole exchange.
    let scene = Scene::new().await;
    for (late, codes) in [
        (frame(DATA, END_STREAM, 1, b"x"), &[STREAM_CLOSED][..]),
        (request(1), &[STREAM_CLOSED]),
        (frame(CONTINUATION, END_HEADERS, 1, get("/")), &[PROTOCOL_ERROR, STREAM_CLOSED]),
    ] {
        let mut peer = Peer::new(&scene).await;
        peer.send(&request(1)).await;
        peer.until(|f| f.stream == 1 && f.flags & END_STREAM != 0).await.unwrap();
        peer.send(&late).await;
        let end = peer.until(|f| f.kind == GOAWAY || f.kind == RST_STREAM).await.unwrap();
        let at = if end.kind == GOAWAY { 4 } else { 0 };
        let code = u32::from_be_bytes(end.payload[at..at + 4].try_into().unwrap());
        assert!(codes.contains(&code) || (end.kind == GOAWAY && code == PROTOCOL_ERROR), "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_1_1_stream_identifiers_are_odd_and_grow() {
    check(&[
        ("even", request(2), GoAway(&[PROTOCOL_ERROR])),
        ("smaller than before", [request(5), request(3)].concat(), GoAway(&[PROTOCOL_ERROR, STREAM_CLOSED])),
        ("with gaps", [request(5), request(101)].concat(), Answers(101)),
        ("the largest", request((1 << 31) - 1), Answers((1 << 31) - 1)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_1_2_streams_above_max_streams_are_refused() {
    let scene = Scene::tuned(1, "max_streams = 10", "").await;
    scene.origin().waits();
    let eleven: Vec<u8> = (0..11).flat_map(|n| request(2 * n + 1)).collect();
    check_in(&scene, &[("11 of 10", eleven, Reset(21, &[REFUSED_STREAM, PROTOCOL_ERROR]))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_1_data() {
    check(&[
        (
            "on the connection",
            [open(1), frame(DATA, END_STREAM, 0, b"x")].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        ("padding", [open(1), frame(DATA, END_STREAM | PADDED, 1, [2, b'x', 0, 0])].concat(), Answers(1)),
        (
            "padding of all there is",
            [open(1), frame(DATA, END_STREAM | PADDED, 1, [3, b'x', 0])].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        (
            "padded, but empty",
            [open(1), frame(DATA, END_STREAM | PADDED, 1, [])].concat(),
            GoAway(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
        ),
        ("empty, with END_STREAM", [open(1), frame(DATA, END_STREAM, 1, [])].concat(), Answers(1)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_4_rst_stream() {
    check(&[
        ("on the connection", frame(RST_STREAM, 0, 0, [0, 0, 0, 8]), GoAway(&[PROTOCOL_ERROR])),
        ("3 octets", [open(1), frame(RST_STREAM, 0, 1, [0; 3])].concat(), GoAway(&[FRAME_SIZE_ERROR])),
        ("5 octets", [open(1), frame(RST_STREAM, 0, 1, [0; 5])].concat(), GoAway(&[FRAME_SIZE_ERROR])),
    ])
    .await;
}
