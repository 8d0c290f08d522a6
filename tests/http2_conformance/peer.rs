//! A client that sends frames as they are given, and judges what comes back.

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use support::PATIENCE;
use support::client::Io;
pub use support::frames::*;
use support::scene::Scene;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The first octet of a field block after updates of the table's size.
    fn first_field(&self) -> Option<u8> {
        self.payload.iter().copied().find(|b| b & 0xe0 != 0x20)
    }

    /// The 32 bits at the start of RST_STREAM, or after the last stream of GOAWAY.
    fn code(&self) -> Option<u32> {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }
}

/// HEADERS that is a whole GET.
pub fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, get("/"))
}

/// HEADERS of a request whose body is to come.
pub fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, post("/open"))
}

/// What must come of a case.
#[derive(Debug, Clone, Copy)]
pub enum Expect {
    /// GOAWAY with one of these codes, and the end of the connection. PROTOCOL_ERROR is taken for any of them: the `h2`
    /// library often says no more (docs/http.md tells), and what matters is that the connection ends.
    GoAway(&'static [u32]),
    /// The stream is reset with one of these codes; or, as RFC 9113 section 5.4 allows, the connection with it.
    Reset(u32, &'static [u32]),
    /// A malformed request (RFC 9113 section 8.1.1): reset with PROTOCOL_ERROR, or answered 400.
    Malformed(u32),
    /// A GET sent after it, on this stream, is answered 200: what came before was in order, or to be ignored.
    Serves(u32),
    /// The stream is answered 200.
    Answers(u32),
    /// A PING answer with this payload.
    Pong([u8; 8]),
}

pub struct Peer {
    io: Box<dyn Io>,
    buffer: Vec<u8>,
}

impl Peer {
    /// A connection on which nothing was sent yet.
    pub async fn raw(scene: &Scene) -> Self {
        Self { io: scene.open_h2().await, buffer: Vec::new() }
    }

    /// With preface and settings exchanged.
    pub async fn new(scene: &Scene) -> Self {
        let mut peer = Self::raw(scene).await;
        peer.send(&[PREFACE, &frame(SETTINGS, 0, 0, [])].concat()).await;
        let first = peer.next().await.expect("the server's preface");
        assert_eq!((first.kind, first.flags & ACK, first.stream), (SETTINGS, 0, 0), "RFC 9113 section 3.4");
        peer.send(&frame(SETTINGS, ACK, 0, [])).await;
        peer
    }

    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.io.write_all(bytes).await.is_ok() && self.io.flush().await.is_ok()
    }

    /// The next frame; none when the connection ends.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if self.buffer.len() >= 9 {
                let length = u32::from_be_bytes([0, self.buffer[0], self.buffer[1], self.buffer[2]]) as usize;
                if self.buffer.len() >= 9 + length {
                    let head: Vec<u8> = self.buffer.drain(..9).collect();
                    let payload = self.buffer.drain(..length).collect();
                    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
                    return Some(Frame { kind: head[3], flags: head[4], stream, payload });
                }
            }
            let read = self.io.read_buf(&mut self.buffer);
            match tokio::time::timeout(PATIENCE, read).await.expect("no further frame, and no end") {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    }

    /// The next frame that this is true of.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    async fn judge(&mut self, expect: Expect, story: &mut Vec<String>) -> Result<(), String> {
        if let Expect::Serves(stream) = expect {
            self.send(&request(stream)).await;
        }
        while let Some(frame) = self.next().await {
            let bad =
                match (expect, frame.kind) {
                    (Expect::GoAway(codes), GOAWAY) => {
                        if frame.code().is_some_and(|c| {
                            codes.contains(&c) || (frame.kind == GOAWAY && c == PROTOCOL_ERROR)
                        }) {
                            while self.next().await.is_some() {}
                            return Ok(());
                        }
                        true
                    }
                    (Expect::Reset(stream, codes), RST_STREAM) if frame.stream == stream => {
                        if frame.code().is_some_and(|c| {
                            codes.contains(&c) || (frame.kind == GOAWAY && c == PROTOCOL_ERROR)
                        }) {
                            return Ok(());
                        }
                        true
                    }
                    (Expect::Reset(_, codes), GOAWAY) => {
                        if frame.code().is_some_and(|c| {
                            codes.contains(&c) || (frame.kind == GOAWAY && c == PROTOCOL_ERROR)
                        }) {
                            return Ok(());
                        }
                        true
                    }
                    (Expect::Malformed(stream), RST_STREAM) if frame.stream == stream => {
                        return if frame.code() == Some(PROTOCOL_ERROR) {
                            Ok(())
                        } else {
                            Err(format!("{frame:?}"))
                        };
                    }
                    (Expect::Malformed(_), GOAWAY) => {
                        return if frame.code() == Some(PROTOCOL_ERROR) {
                            Ok(())
                        } else {
                            Err(format!("{frame:?}"))
                        };
                    }
                    // Index 12 of the static table: `:status: 400`.
                    (Expect::Malformed(stream), HEADERS) if frame.stream == stream => {
                        return if frame.first_field() == Some(0x8c) {
                            Ok(())
                        } else {
                            Err(format!("{frame:?}"))
                        };
                    }
                    // Index 8: `:status: 200`.
                    (Expect::Serves(stream) | Expect::Answers(stream), HEADERS) if frame.stream == stream => {
                        return if frame.first_field() == Some(0x88) {
                            Ok(())
                        } else {
                            Err(format!("{frame:?}"))
                        };
                    }
                    (Expect::Pong(payload), PING) if frame.flags & ACK != 0 => {
                        return if frame.payload == payload { Ok(()) } else { Err(format!("{frame:?}")) };
                    }
                    (Expect::Serves(_) | Expect::Answers(_) | Expect::Pong(_), GOAWAY) => true,
                    (Expect::Serves(stream) | Expect::Answers(stream), RST_STREAM) => frame.stream == stream,
                    _ => false,
                };
            story.push(format!("{frame:?}"));
            if bad {
                break;
            }
        }
        story.push("end".into());
        Err(story.join("\n    "))
    }
}

/// Each of these frames, sent on a connection of its own, comes to what is expected.
pub async fn check(cases: &[(&str, Vec<u8>, Expect)]) {
    let scene = Scene::new().await;
    check_in(&scene, cases).await;
}

/// As [`check`], in a scene that is there.
pub async fn check_in(scene: &Scene, cases: &[(&str, Vec<u8>, Expect)]) {
    let wrong: Vec<String> = join_all(cases.iter().map(|(name, bytes, expect)| async move {
        let mut peer = Peer::new(scene).await;
        peer.send(bytes).await;
        let mut story = Vec::new();
        let verdict = tokio::time::timeout(PATIENCE / 2, peer.judge(*expect, &mut story)).await;
        let verdict =
            verdict.unwrap_or_else(|_| Err(format!("nothing more than\n    {}", story.join("\n    "))));
        verdict.err().map(|what| format!("{name}: expected {expect:?}, got\n    {what}"))
    }))
    .await
    .into_iter()
    .flatten()
    .collect();
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
