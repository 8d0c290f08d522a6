//! Header compression: RFC 7541.

use super::peer::*;
use Expect::{Answers, GoAway};
use support::until;

fn after_get(more: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, [&get("/")[..], more].concat())
}

const BROKEN: Expect = GoAway(&[COMPRESSION_ERROR]);

#[tokio::test(flavor = "multi_thread")]
async fn rfc7541_2_3_3_an_index_beyond_the_tables_is_a_decoding_error() {
    check(&[
        // 62 is the first of the dynamic table, which is empty.
        ("indexed field 62", after_get(&[0x80 | 62]), BROKEN),
        ("indexed field 70", after_get(&[0x80 | 70]), BROKEN),
        ("literal with name 70", after_get(&[0x40 | 0x3f, 7, 1, b'x']), BROKEN),
        ("never indexed with name 100", after_get(&[0x1f, 85, 1, b'x']), BROKEN),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7541_6_1_index_0_is_a_decoding_error() {
    check(&[("indexed field 0", after_get(&[0x80]), BROKEN)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7541_5_1_an_integer_that_overflows_is_a_decoding_error() {
    check(&[
        (
            "an index",
            after_get(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            BROKEN,
        ),
        (
            "a length",
            after_get(&[0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            BROKEN,
        ),
        ("a length beyond the block", after_get(&[0, 1, b'x', 0x7f, 0x80, 0x80, 0x01]), BROKEN),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7541_5_2_huffman_padding_and_eos() {
    check(&[
        // "a" is 00011.
        ("in order", after_get(&[0, 1, b'x', 0x81, 0b0001_1111]), Answers(1)),
        ("padding of more than 7 bits", after_get(&[0, 1, b'x', 0x82, 0b0001_1111, 0xff]), BROKEN),
        ("padding of zeros", after_get(&[0, 1, b'x', 0x81, 0b0001_1000]), BROKEN),
        ("the EOS symbol", after_get(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]), BROKEN),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7541_6_3_and_4_2_a_table_size_update_stands_first_and_within_the_limit() {
    let whole = |block: Vec<u8>| frame(HEADERS, END_HEADERS | END_STREAM, 1, block);
    check(&[
        ("to 0, first", whole([vec![0x20], get("/")].concat()), Answers(1)),
        ("to 0 and to 100, first", whole([vec![0x20, 0x3f, 69], get("/")].concat()), Answers(1)),
        ("above the limit", whole([vec![0x3f, 0xe1, 0xff, 0x03], get("/")].concat()), BROKEN),
        ("after a field", after_get(&[0x20]), BROKEN),
        ("between fields", after_get(&[0x20, 0, 1, b'x', 1, b'y']), BROKEN),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc7541_2_3_2_the_dynamic_table_lasts_from_request_to_request() {
    // The first adds "x-kept: value" to the table, the second refers to it.
    let first =
        frame(HEADERS, END_HEADERS | END_STREAM, 1, [&get("/1")[..], b"\x40\x06x-kept\x05value"].concat());
    let second = frame(HEADERS, END_HEADERS | END_STREAM, 3, [&get("/2")[..], &[0x80 | 62]].concat());
    let scene = support::scene::Scene::new().await;
    check_in(&scene, &[("both", [first, second].concat(), Answers(3))]).await;
    // Streams may overtake one another.
    until("both are there", || async { scene.origin().seen().len() == 2 }).await;
    let seen = scene.origin().seen();
    let values: Vec<_> = seen.iter().map(|m| m.field("x-kept")).collect();
    assert_eq!(values, [Some("value".into()), Some("value".into())]);
}
