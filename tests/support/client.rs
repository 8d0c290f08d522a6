//! Clients: one that sends exactly the bytes it is given, and one for HTTP/2.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::PATIENCE;
use super::backend::find;

pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// An answer, its body put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (n, v) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim().to_owned())
        })
    }
}

/// A connection on which bytes are sent as they are.
pub struct Wire {
    stream: Box<dyn Io>,
    buffer: Vec<u8>,
}

impl Wire {
    pub async fn plain(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    pub async fn tls(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> Self {
        Self::try_tls(address, name, config).await.unwrap()
    }

    pub async fn try_tls(
        address: SocketAddr,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<Self> {
        Self::try_tls_over(TcpStream::connect(address).await?, name, config).await
    }

    /// TLS over a connection that is there, on which something may have been sent.
    pub async fn try_tls_over(
        tcp: TcpStream,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Self { stream: Box::new(stream), buffer: Vec::new() })
    }

    /// Plain text over a connection that is there.
    pub fn over(tcp: TcpStream) -> Self {
        Self { stream: Box::new(tcp), buffer: Vec::new() }
    }

    pub fn into_stream(self) -> Box<dyn Io> {
        self.stream
    }

    /// Sends as much as the other side takes: what it refuses by its head it may answer before all was read (RFC 9112 section 9.6). Whether
    /// there is an answer is for whoever reads it.
    pub async fn send(&mut self, bytes: &str) {
        let sent = async {
            self.stream.write_all(bytes.as_bytes()).await?;
            self.stream.flush().await
        };
        match sent.await {
            Err(e) if !matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("{e}")
            }
            _ => (),
        }
    }

    /// As [`send`](Self::send); whether all of it was taken.
    pub async fn try_send(&mut self, bytes: &str) -> bool {
        self.stream.write_all(bytes.as_bytes()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// The next answer; `None` when the connection ends before one.
    pub async fn answer(&mut self) -> Option<Answer> {
        self.answer_to("GET").await
    }

    pub async fn answer_to(&mut self, method: &str) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read_answer(method)).await.expect("no answer")
    }

    async fn read_answer(&mut self, method: &str) -> Option<Answer> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        let mut answer = Answer { status, head, body: String::new() };
        if status < 200 || status == 204 || status == 304 || method == "HEAD" {
            return Some(answer);
        }
        if answer.field("transfer-encoding").is_some() {
            loop {
                let line = loop {
                    if let Some(at) = find(&self.buffer, b"\r\n") {
                        break at;
                    }
                    self.more().await?;
                };
                let size = std::str::from_utf8(&self.buffer[..line]).ok()?.trim().to_owned();
                let size = usize::from_str_radix(&size, 16).ok()?;
                while self.buffer.len() < line + 2 + size + 2 {
                    self.more().await?;
                }
                answer.body.push_str(&String::from_utf8_lossy(&self.buffer[line + 2..line + 2 + size]));
                self.buffer.drain(..line + 2 + size + 2);
                if size == 0 {
                    return Some(answer);
                }
            }
        }
        let length: usize = answer.field("content-length").map_or(0, |v| v.parse().unwrap());
        while self.buffer.len() < length {
            self.more().await?;
        }
        answer.body = String::from_utf8_lossy(&self.buffer.drain(..length).collect::<Vec<_>>()).into_owned();
        Some(answer)
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(n) if n > 0 => Some(()),
            _ => None,
        }
    }

    /// What comes up to and with `end`.
    pub async fn until(&mut self, end: &str) -> String {
        let read = async {
            loop {
                if let Some(at) = find(&self.buffer, end.as_bytes()) {
                    let text: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                    return String::from_utf8_lossy(&text).into_owned();
                }
                let seen = String::from_utf8_lossy(&self.buffer).into_owned();
                self.more()
                    .await
                    .unwrap_or_else(|| panic!("{end:?} does not come, but {seen:?} and the end"));
            }
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("{end:?} does not come"))
    }

    /// What comes until the connection ends.
    pub async fn rest(&mut self) -> String {
        assert!(self.closes_within(PATIENCE).await, "the connection does not end");
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// Bytes as they come, at least one.
    pub async fn bytes(&mut self) -> Option<Vec<u8>> {
        if self.buffer.is_empty() {
            tokio::time::timeout(PATIENCE, self.more()).await.expect("no bytes")?;
        }
        Some(std::mem::take(&mut self.buffer))
    }

    /// Whether the other side closes within `time`, whatever it says before.
    pub async fn closes_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, async { while self.more().await.is_some() {} }).await.is_ok()
    }
}
