//! Flow control: RFC 9113 sections 6.9, 6.9.1 and 6.9.2.

use std::time::Duration;

use super::peer::*;
use Expect::{GoAway, Reset, Serves};
use support::scene::Scene;

const MOST: u32 = (1 << 31) - 1;

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_9_window_update() {
    check(&[
        ("by 0 on the connection", update(0, 0), GoAway(&[PROTOCOL_ERROR])),
        ("by 0 on a stream", [open(1), update(1, 0)].concat(), Reset(1, &[PROTOCOL_ERROR])),
        ("3 octets", frame(WINDOW_UPDATE, 0, 0, [0; 3]), GoAway(&[FRAME_SIZE_ERROR])),
        ("5 octets", frame(WINDOW_UPDATE, 0, 0, [0; 5]), GoAway(&[FRAME_SIZE_ERROR])),
        ("with the reserved bit", update(0, 1 | 1 << 31), Serves(1)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_9_1_a_window_above_2_31_minus_1_is_an_error() {
    check(&[
        ("of the connection", [update(0, MOST), update(0, MOST)].concat(), GoAway(&[FLOW_CONTROL_ERROR])),
        (
            "of a stream",
            [open(1), update(1, MOST), update(1, MOST)].concat(),
            Reset(1, &[FLOW_CONTROL_ERROR]),
        ),
    ])
    .await;
}

/// A client that is far away: whatever the server says reaches it when it has nothing more to send.
#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_9_2_windows_grow_for_a_client_that_is_held_up_by_them() {
    const TOTAL: usize = 20_000_000;
    let scene = Scene::new().await;
    let mut peer = Peer::new(&scene).await;
    let length = TOTAL.to_string();
    let head = [post("/upload"), field("content-length", &length)].concat();
    peer.send(&frame(HEADERS, END_HEADERS, 1, head)).await;
    // Its settings came with its preface.
    let (mut initial, mut of_stream, mut of_connection) = (131_072i64, 131_072i64, 65_535i64);
    let (mut sent, mut rounds) = (0, 0);
    loop {
        let mut answers = Vec::new();
        while let Ok(next) = tokio::time::timeout(Duration::from_millis(100), peer.next()).await {
            let next = next.expect("the connection ended");
            let number =
                |at: usize| i64::from(u32::from_be_bytes(next.payload[at..at + 4].try_into().unwrap()));
            match next.kind {
                WINDOW_UPDATE if next.stream == 0 => of_connection += number(0),
                WINDOW_UPDATE => of_stream += number(0),
                SETTINGS if next.flags & ACK == 0 => {
                    for at in (0..next.payload.len()).step_by(6) {
                        if next.payload[at..at + 2] == [0, 4] {
                            of_stream += number(at + 2) - initial;
                            initial = number(at + 2);
                        }
                    }
                    answers.extend(frame(SETTINGS, ACK, 0, []));
                }
                PING if next.flags & ACK == 0 => answers.extend(frame(PING, ACK, 0, &next.payload)),
                HEADERS => {
                    assert_eq!(sent, TOTAL);
                    // 128 KiB a round would be 153.
                    assert!(rounds <= 30, "{rounds} round trips for {TOTAL} octets");
                    return;
                }
                _ => {}
            }
        }
        rounds += 1;
        let mut room = of_stream.min(of_connection).min((TOTAL - sent) as i64);
        (of_stream, of_connection, sent) = (of_stream - room, of_connection - room, sent + room as usize);
        while room > 0 {
            let n = room.min(16_384);
            room -= n;
            let flags = if room == 0 && sent == TOTAL { END_STREAM } else { 0 };
            answers.extend(frame(DATA, flags, 1, vec![0; n as usize]));
        }
        peer.send(&answers).await;
        assert!(rounds < 200, "{sent} octets after {rounds} round trips");
    }
}

/// The body, octet by octet as the window opens.
#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_9_1_no_more_is_sent_than_the_window_allows() {
    let scene = Scene::new().await;
    scene.origin().answers("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let mut peer = Peer::new(&scene).await;
    peer.send(&[frame(SETTINGS, 0, 0, setting(4, 1)), request(1)].concat()).await;
    let mut body = Vec::new();
    while body.len() < 5 {
        let data = peer.until(|f| f.kind == DATA).await.unwrap();
        assert!(data.payload.len() <= 1, "{data:?}");
        body.extend(data.payload);
        peer.send(&update(1, 1)).await;
    }
    assert_eq!(body, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_9_2_a_changed_initial_window_applies_to_open_streams() {
    let scene = Scene::new().await;
    scene.origin().answers("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let mut peer = Peer::new(&scene).await;
    peer.send(&[frame(SETTINGS, 0, 0, setting(4, 0)), request(1)].concat()).await;
    peer.until(|f| f.kind == HEADERS).await.unwrap();
    // Below zero and above again: 3 - 4 + 5 octets may be sent in all.
    peer.send(&frame(SETTINGS, 0, 0, setting(4, 3))).await;
    let first = peer.until(|f| f.kind == DATA && !f.payload.is_empty()).await.unwrap();
    assert_eq!(first.payload, b"hel");
    peer.send(&[frame(SETTINGS, 0, 0, setting(4, 2)), frame(PING, 0, 0, [1; 8])].concat()).await;
    let next = peer.until(|f| f.kind == DATA || (f.kind == PING && f.payload == [1; 8])).await.unwrap();
    assert_eq!(next.kind, PING, "sent into a window below zero");
    peer.send(&update(1, 2)).await;
    assert_eq!(peer.until(|f| f.kind == DATA).await.unwrap().payload, b"l");
    peer.send(&update(1, 1)).await;
    assert_eq!(peer.until(|f| f.kind == DATA).await.unwrap().payload, b"o");
}

/// RFC 9113 section 6.9.1: what exceeds the window that we gave is an error, whatever the stream carries.
#[tokio::test(flavor = "multi_thread")]
async fn rfc9113_6_9_1_a_client_that_exceeds_our_window_is_stopped() {
    let scene = Scene::new().await;
    scene.origin().waits();
    let mut peer = Peer::new(&scene).await;
    // The back end reads nothing, so no window is given back. Ours is 64 KiB to 16 MiB.
    peer.send(&open(1)).await;
    let piece = frame(DATA, 0, 1, vec![0; 16_384]);
    for _ in 0..4096 {
        if !peer.send(&piece).await {
            break;
        }
    }
    let end = peer.until(|f| f.kind == GOAWAY || f.kind == RST_STREAM).await;
    if let Some(end) = end {
        let at = if end.kind == GOAWAY { 4 } else { 0 };
        assert_eq!(end.payload[at..at + 4], FLOW_CONTROL_ERROR.to_be_bytes(), "{end:?}");
    }
}
