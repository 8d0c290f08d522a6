//! Field blocks and their frames: RFC 9113 sections 4.3, 6.2, 6.3 and 6.10.

use super::peer::*;
use Expect::{Answers, GoAway, Reset, Serves};

fn halves() -> (Vec<u8>, Vec<u8>) {
    let block = get("/halves");
    let (a, b) = block.split_at(block.len() / 2);
    (a.to_vec(), b.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_4_3_a_field_block_is_whole_and_uninterrupted() {
    let begun = frame(HEADERS, END_STREAM, 1, get("/"));
    check(&[
        ("no HPACK", frame(HEADERS, END_HEADERS | END_STREAM, 1, [0xff; 4]), GoAway(&[COMPRESSION_ERROR])),
        (
            "cut in a string",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, [0, 10, b'x']),
            GoAway(&[COMPRESSION_ERROR]),
        ),
        (
            "PRIORITY inside",
            [begun.clone(), frame(PRIORITY, 0, 1, [0, 0, 0, 0, 16])].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        ("PING inside", [begun.clone(), frame(PING, 0, 0, [0; 8])].concat(), GoAway(&[PROTOCOL_ERROR])),
        ("SETTINGS inside", [begun.clone(), frame(SETTINGS, 0, 0, [])].concat(), GoAway(&[PROTOCOL_ERROR])),
        (
            "DATA inside",
            [begun.clone(), frame(DATA, END_STREAM, 1, b"x")].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        ("another stream's HEADERS inside", [begun, request(3)].concat(), GoAway(&[PROTOCOL_ERROR])),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_2_headers() {
    let padded = |length: u8, rest: &[u8]| {
        frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, [&[length], rest].concat())
    };
    let block = get("/");
    check(&[
        ("on the connection", frame(HEADERS, END_HEADERS | END_STREAM, 0, &block), GoAway(&[PROTOCOL_ERROR])),
        ("padding", padded(4, &[&block[..], &[0; 4]].concat()), Answers(1)),
        ("padding of all there is", padded(block.len() as u8 + 1, &block), GoAway(&[PROTOCOL_ERROR])),
        ("padding of 255", padded(255, &block), GoAway(&[PROTOCOL_ERROR])),
        (
            "padded, but empty",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, []),
            GoAway(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "with priority",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | WITH_PRIORITY,
                1,
                [&[0, 0, 0, 0, 16][..], &block].concat(),
            ),
            Answers(1),
        ),
        (
            "with half a priority",
            frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, [0, 0, 0]),
            GoAway(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
    ])
    .await;
}

/// The priorities of RFC 7540 are deprecated (RFC 9113 section 5.3.2), their frames still have rules.
#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_3_priority() {
    check(&[
        ("on the connection", frame(PRIORITY, 0, 0, [0, 0, 0, 0, 16]), GoAway(&[PROTOCOL_ERROR])),
        ("4 octets", [open(1), frame(PRIORITY, 0, 1, [0; 4])].concat(), Reset(1, &[FRAME_SIZE_ERROR])),
        ("on an idle stream", frame(PRIORITY, 0, 5, [0, 0, 0, 0, 16]), Serves(7)),
        ("after the stream", [request(1), frame(PRIORITY, 0, 1, [0, 0, 0, 0, 16])].concat(), Serves(3)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7540_5_3_1_a_stream_does_not_depend_on_itself() {
    check(&[
        (
            "HEADERS",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | WITH_PRIORITY,
                1,
                [&[0, 0, 0, 1, 16][..], &get("/")].concat(),
            ),
            Reset(1, &[PROTOCOL_ERROR]),
        ),
        (
            "PRIORITY",
            [open(1), frame(PRIORITY, 0, 1, [0, 0, 0, 1, 16])].concat(),
            Reset(1, &[PROTOCOL_ERROR]),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_10_continuation() {
    let (a, b) = halves();
    let begun = frame(HEADERS, END_STREAM, 1, &a);
    let quarter = a.len() / 2;
    let four = [
        frame(HEADERS, END_STREAM, 1, &a[..quarter]),
        frame(CONTINUATION, 0, 1, &a[quarter..]),
        frame(CONTINUATION, 0, 1, &b[..quarter]),
        frame(CONTINUATION, END_HEADERS, 1, &b[quarter..]),
    ];
    check(&[
        ("two parts", [begun.clone(), frame(CONTINUATION, END_HEADERS, 1, &b)].concat(), Answers(1)),
        (
            "an empty part between",
            [begun.clone(), frame(CONTINUATION, 0, 1, []), frame(CONTINUATION, END_HEADERS, 1, &b)].concat(),
            Answers(1),
        ),
        ("four parts", four.concat(), Answers(1)),
        (
            "followed by another frame",
            [begun.clone(), frame(CONTINUATION, 0, 1, &b), frame(PING, 0, 0, [0; 8])].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        (
            "on the connection",
            [begun.clone(), frame(CONTINUATION, END_HEADERS, 0, &b)].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        (
            "of another stream",
            [begun.clone(), frame(CONTINUATION, END_HEADERS, 3, &b)].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        (
            "after END_HEADERS",
            [open(1), frame(CONTINUATION, END_HEADERS, 1, &b)].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
        (
            "after the last CONTINUATION",
            [begun, frame(CONTINUATION, END_HEADERS, 1, &b), frame(CONTINUATION, END_HEADERS, 1, &b)]
                .concat(),
            GoAway(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        (
            "after DATA",
            [open(1), frame(DATA, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, &b)].concat(),
            GoAway(&[PROTOCOL_ERROR]),
        ),
    ])
    .await;
}
