//! Frames: RFC 9113 sections 3.4, 4, 5.5 and the frames of the connection in section 6.

use super::peer::*;
use Expect::{Answers, GoAway, Pong, Reset, Serves};
use support::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_3_4_the_preface_is_demanded_and_ours_comes_first() {
    let scene = Scene::new().await;
    let first = Peer::new(&scene).await;
    drop(first);
    for wrong in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r"[..],
        b"GET / HTTP/1.1\r\nHost: www.foobar.com\r\n\r\n",
        b"INVALID CONNECTION PREFACE\r\n\r\n",
    ] {
        let mut peer = Peer::raw(&scene).await;
        peer.send(wrong).await;
        while peer.next().await.is_some() {}
    }
    assert_eq!(scene.origin().seen(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_4_1_unknown_types_flags_and_the_reserved_bit_are_ignored() {
    check(&[
        ("unknown type", frame(0xff, 0xff, 0, b"whatever"), Serves(1)),
        ("unknown type on an idle stream", frame(0x20, 0, 99, b"whatever"), Serves(1)),
        ("undefined flags", frame(PING, 0x16, 0, [7; 8]), Pong([7; 8])),
        ("reserved bit", frame(PING, 0, 1 << 31, [7; 8]), Pong([7; 8])),
        (
            "reserved bit of a request",
            frame(HEADERS, END_HEADERS | END_STREAM, 1 | 1 << 31, get("/")),
            Answers(1),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_4_2_frames_up_to_16384_octets_are_taken_and_larger_ones_are_not() {
    let large = vec![0; 16_385];
    let fields = field("x", "y".repeat(16_400));
    check(&[
        ("DATA of 16384", [open(1), frame(DATA, END_STREAM, 1, vec![0; 16_384])].concat(), Answers(1)),
        (
            "DATA of 16385",
            [open(1), frame(DATA, END_STREAM, 1, &large)].concat(),
            Reset(1, &[FRAME_SIZE_ERROR]),
        ),
        (
            "HEADERS of more",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, [get("/"), fields].concat()),
            GoAway(&[FRAME_SIZE_ERROR]),
        ),
        (
            "SETTINGS of more",
            frame(SETTINGS, 0, 0, setting(1, 4096).repeat(2731)),
            GoAway(&[FRAME_SIZE_ERROR]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_5_extensions_are_ignored_but_not_inside_a_field_block() {
    check(&[
        ("extension frame", frame(0x16, 0, 0, [0; 8]), Serves(1)),
        (
            "inside a field block",
            [frame(HEADERS, END_STREAM, 1, get("/")), frame(0x16, 0, 0, [0; 8])].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        ("unknown setting", frame(SETTINGS, 0, 0, setting(0xff, 1)), Serves(1)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_5_4_1_a_connection_error_is_told_and_ends_the_connection() {
    check(&[("PING of 6 octets", frame(PING, 0, 0, [0; 6]), GoAway(&[FRAME_SIZE_ERROR]))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_5_settings() {
    check(&[
        ("ACK with payload", frame(SETTINGS, ACK, 0, setting(1, 0)), GoAway(&[FRAME_SIZE_ERROR])),
        ("on a stream", frame(SETTINGS, 0, 1, setting(1, 4096)), GoAway(&[PROTOCOL_ERROR])),
        ("5 octets", frame(SETTINGS, 0, 0, [0; 5]), GoAway(&[FRAME_SIZE_ERROR])),
        ("7 octets", frame(SETTINGS, 0, 0, [0; 7]), GoAway(&[FRAME_SIZE_ERROR])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_5_2_defined_settings() {
    check(&[
        ("ENABLE_PUSH 2", frame(SETTINGS, 0, 0, setting(2, 2)), GoAway(&[PROTOCOL_ERROR])),
        (
            "INITIAL_WINDOW_SIZE above 2^31-1",
            frame(SETTINGS, 0, 0, setting(4, 1 << 31)),
            GoAway(&[FLOW_CONTROL_ERROR]),
        ),
        ("MAX_FRAME_SIZE below 16384", frame(SETTINGS, 0, 0, setting(5, 16_383)), GoAway(&[PROTOCOL_ERROR])),
        (
            "MAX_FRAME_SIZE above 2^24-1",
            frame(SETTINGS, 0, 0, setting(5, 1 << 24)),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        (
            "the largest of each",
            frame(
                SETTINGS,
                0,
                0,
                [setting(2, 0), setting(4, (1 << 31) - 1), setting(5, (1 << 24) - 1)].concat(),
            ),
            Serves(1),
        ),
        ("table size 0", frame(SETTINGS, 0, 0, setting(1, 0)), Serves(1)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_5_3_settings_are_acknowledged() {
    let scene = Scene::new().await;
    let mut peer = Peer::new(&scene).await;
    // That of the preface, and this one.
    peer.send(&frame(SETTINGS, 0, 0, setting(3, 7))).await;
    for _ in 0..2 {
        let ack = peer.until(|f| f.kind == SETTINGS && f.flags & ACK != 0).await.unwrap();
        assert!(ack.payload.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_6_a_client_does_not_push() {
    let promise = [&2u32.to_be_bytes()[..], &get("/")].concat();
    check(&[
        (
            "PUSH_PROMISE",
            [open(1), frame(PUSH_PROMISE, END_HEADERS, 1, &promise)].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        ("on an idle stream", frame(PUSH_PROMISE, END_HEADERS, 1, promise), GoAway(&[PROTOCOL_ERROR])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_7_ping() {
    check(&[
        ("is answered", frame(PING, 0, 0, *b"01234567"), Pong(*b"01234567")),
        // The answer to the second alone comes.
        (
            "an answer is not answered",
            [frame(PING, ACK, 0, *b"-ignore-"), frame(PING, 0, 0, *b"-answer-")].concat(),
            Pong(*b"-answer-"),
        ),
        ("on a stream", frame(PING, 0, 1, [0; 8]), GoAway(&[PROTOCOL_ERROR])),
        ("7 octets", frame(PING, 0, 0, [0; 7]), GoAway(&[FRAME_SIZE_ERROR])),
        ("9 octets", frame(PING, 0, 0, [0; 9]), GoAway(&[FRAME_SIZE_ERROR])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_8_goaway() {
    check(&[
        ("on a stream", frame(GOAWAY, 0, 1, [0; 8]), GoAway(&[PROTOCOL_ERROR])),
        ("4 octets", frame(GOAWAY, 0, 0, [0; 4]), GoAway(&[FRAME_SIZE_ERROR])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_7_unknown_error_codes_change_nothing() {
    let code = 0xffu32.to_be_bytes();
    check(&[
        ("RST_STREAM", [open(1), frame(RST_STREAM, 0, 1, code)].concat(), Serves(3)),
        // After GOAWAY the connection may end; a PING before that is answered.
        (
            "GOAWAY",
            [frame(PING, 0, 0, [3; 8]), frame(GOAWAY, 0, 0, [&[0; 4][..], &code].concat())].concat(),
            Pong([3; 8]),
        ),
    ])
    .await;
}
