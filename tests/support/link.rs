//! One end of a connection on which every byte is chosen and seen: used as a client and as a back end.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::PATIENCE;
use super::backend::find;
use super::client::Io;

/// A message as it was on the wire, its body put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// From the start line to the empty line, both included.
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    /// The trailer section, without the empty line.
    pub trailers: Vec<u8>,
    pub chunked: bool,
}

impl Message {
    /// The head as text; bytes that are no UTF-8 become `\u{fffd}`.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    /// The start line without its line end.
    pub fn line(&self) -> String {
        self.text().split("\r\n").next().unwrap_or_default().to_owned()
    }

    pub fn status(&self) -> u16 {
        self.line().split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    /// All values of a field, in order.
    pub fn values(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let fields = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned()).collect()
    }

    /// The only value of a field; none when it is absent.
    pub fn field(&self, name: &str) -> Option<String> {
        let mut values = self.values(name);
        assert!(values.len() < 2, "{name} stands more than once in {}", self.text());
        values.pop()
    }

    pub fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order: with close_notify, where there is TLS.
    Clean,
    /// Without.
    Cut,
}

/// Why a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The connection ended before a message began.
    NoMessage(End),
    /// The connection ended inside the message, of which this had come.
    Ended(End, Message),
    /// The framing was not what a careful sender sends.
    Framing(String),
}

pub struct Link {
    stream: Box<dyn Io>,
    buffer: Vec<u8>,
}

impl Link {
    pub fn new(stream: Box<dyn Io>) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_send(bytes).await, "the other side is gone");
    }

    /// As [`send`](Self::send), when the other side may have gone.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(PATIENCE, sent).await.expect("nobody takes the bytes").is_ok()
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    async fn more(&mut self) -> Result<(), End> {
        let read = self.stream.read_buf(&mut self.buffer);
        match tokio::time::timeout(PATIENCE, read).await {
            Err(_) => panic!("nothing came after {:?}", String::from_utf8_lossy(&self.buffer)),
            Ok(Ok(0)) => Err(End::Clean),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(End::Cut),
        }
    }

    /// Bytes up to and with `needle`.
    pub async fn until(&mut self, needle: &[u8]) -> Result<Vec<u8>, End> {
        loop {
            if let Some(at) = find(&self.buffer, needle) {
                return Ok(self.buffer.drain(..at + needle.len()).collect());
            }
            self.more().await?;
        }
    }

    pub async fn exactly(&mut self, n: usize) -> Result<Vec<u8>, End> {
        while self.buffer.len() < n {
            self.more().await?;
        }
        Ok(self.buffer.drain(..n).collect())
    }

    /// Bytes as they come, at least one.
    pub async fn some(&mut self) -> Result<Vec<u8>, End> {
        if self.buffer.is_empty() {
            self.more().await?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Everything until the connection ends.
    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.more().await {
                return (std::mem::take(&mut self.buffer), end);
            }
        }
    }

    /// Whether nothing comes, and the connection stays open, for this long. Only for what must not happen: a test that
    /// holds is not sped up by a fast machine, and one that fails is not saved by a slow one.
    pub async fn is_silent_for(&mut self, time: Duration) -> bool {
        self.buffer.is_empty()
            && tokio::time::timeout(time, self.stream.read_buf(&mut self.buffer)).await.is_err()
    }

    /// A head, and nothing after it.
    pub async fn head(&mut self) -> Result<Message, Broken> {
        while self.buffer.is_empty() {
            self.more().await.map_err(Broken::NoMessage)?;
        }
        let head = match self.until(b"\r\n\r\n").await {
            Ok(head) => head,
            Err(end) => {
                let head = std::mem::take(&mut self.buffer);
                return Err(Broken::Ended(end, Message { head, ..Message::default() }));
            }
        };
        Ok(Message { head, ..Message::default() })
    }

    /// A request, framed as a careful sender frames it.
    pub async fn request(&mut self) -> Result<Message, Broken> {
        let mut message = self.head().await?;
        self.body(&mut message, 0).await?;
        Ok(message)
    }

    /// The body of a request whose head was read already.
    pub async fn body_of_request(&mut self, message: &mut Message) -> Result<(), Broken> {
        self.body(message, 0).await
    }

    /// An answer to a request with this method, interim answers included.
    pub async fn answer_to(&mut self, method: &str) -> Result<Message, Broken> {
        let mut message = self.head().await?;
        let status = message.status();
        if status < 200 || status == 204 || status == 304 || method == "HEAD" {
            return Ok(message);
        }
        self.body(&mut message, usize::MAX).await?;
        Ok(message)
    }

    pub async fn answer(&mut self) -> Result<Message, Broken> {
        self.answer_to("GET").await
    }

    /// The body of `message`; `otherwise` is its length when the head does not say it, `MAX` being "until the end".
    async fn body(&mut self, message: &mut Message, otherwise: usize) -> Result<(), Broken> {
        let (lengths, codings) = (message.values("content-length"), message.values("transfer-encoding"));
        let framing = |what: &str| Err(Broken::Framing(format!("{what}: {}", message.text())));
        if lengths.len() + codings.len() > 1 {
            return framing("framed in two ways");
        }
        if let Some(coding) = codings.first() {
            if coding != "chunked" {
                return framing("another coding");
            }
            message.chunked = true;
            return self.chunks(message).await;
        }
        let length = match lengths.first() {
            None => otherwise,
            Some(digits) => match digits.parse::<usize>() {
                Ok(n) if n.to_string() == *digits => n,
                _ => return framing("a length that is no plain number"),
            },
        };
        while self.buffer.len() < length {
            if let Err(end) = self.more().await {
                message.body = std::mem::take(&mut self.buffer);
                return if length == usize::MAX && end == End::Clean {
                    Ok(())
                } else {
                    Err(Broken::Ended(end, message.clone()))
                };
            }
        }
        message.body = self.buffer.drain(..length).collect();
        Ok(())
    }

    async fn chunks(&mut self, message: &mut Message) -> Result<(), Broken> {
        loop {
            let ended = |end, message: &Message| Broken::Ended(end, message.clone());
            let line = self.until(b"\r\n").await.map_err(|e| ended(e, message))?;
            let digits = std::str::from_utf8(&line[..line.len() - 2]).unwrap_or("?");
            // No extension, no sign, no spaces: what is sent on must be beyond doubt.
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(Broken::Framing(format!("a chunk of size {digits:?}")));
            }
            let size = usize::from_str_radix(digits, 16).unwrap();
            if size == 0 {
                break;
            }
            while self.buffer.len() < size + 2 {
                if let Err(end) = self.more().await {
                    message.body.append(&mut self.buffer);
                    return Err(ended(end, message));
                }
            }
            message.body.extend(self.buffer.drain(..size));
            if self.buffer.drain(..2).collect::<Vec<_>>() != b"\r\n" {
                return Err(Broken::Framing("chunk data without its line end".into()));
            }
        }
        loop {
            let line = self.until(b"\r\n").await.map_err(|e| Broken::Ended(e, message.clone()))?;
            if line == b"\r\n" {
                return Ok(());
            }
            message.trailers.extend(line);
        }
    }
}
