//! The octets of one connection: as they are, or in TLS.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, CommonState, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// Octets that one read of a socket may bring.
const MOST: usize = 64 * 1024;

thread_local! {
    /// Where a thread's connections read more than they were asked for. What is not used at once is theirs to keep.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; MOST].into_boxed_slice());
}

/// A connection.
pub enum Stream {
    /// Its octets as they are.
    Plain(TcpStream),
    /// The same, over a unix socket.
    Unix(UnixStream),
    /// Within TLS.
    Tls(Box<TlsStream<ReadAhead<TcpStream>>>),
}

/// What TLS says of a client's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// `TLSv1.3`, as nginx and HAProxy write it.
    pub version: &'static str,
    /// The name that was asked for (RFC 6066 section 3).
    pub server_name: Option<String>,
}

impl Stream {
    /// After a handshake with a client.
    pub async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let stream = TlsAcceptor::from(config).accept(ReadAhead::new(tcp)).await?;
        Ok(Self::Tls(Box::new(stream.into())))
    }

    /// After a handshake with a server, whose certificate carries `name`.
    pub async fn connect(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let stream = TlsConnector::from(config).connect(name, ReadAhead::new(tcp)).await?;
        Ok(Self::Tls(Box::new(stream.into())))
    }

    /// Has the socket watched by the runtime of the thread that calls. After an error the connection is as it was.
    pub fn watch_here(&mut self) -> io::Result<()> {
        // By another descriptor: the first one is closed where it is watched.
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &mut tls.get_mut().0.io,
            Self::Unix(unix) => {
                *unix = UnixStream::from_std(unix.as_fd().try_clone_to_owned()?.into())?;
                return Ok(());
            }
        };
        *tcp = TcpStream::from_std(tcp.as_fd().try_clone_to_owned()?.into())?;
        Ok(())
    }

    /// What was agreed on in the handshake.
    pub fn tls(&self) -> Option<&CommonState> {
        match self {
            Self::Plain(_) | Self::Unix(_) => None,
            Self::Tls(tls) => Some(tls.get_ref().1),
        }
    }

    /// What a client has agreed on with us.
    pub fn handshake(&self) -> Option<Handshake> {
        let Self::Tls(tls) = self else { return None };
        let TlsStream::Server(server) = &**tls else { return None };
        let (_, connection) = server.get_ref();
        let version = match connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => "TLSv1.3",
        };
        Some(Handshake { version, server_name: connection.server_name().map(str::to_owned) })
    }

    /// The protocol that was agreed on (RFC 7301).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls().and_then(CommonState::alpn_protocol)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // A socket holds nothing back.
            Self::Plain(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// Reads what is there, in one system call, for a reader that asks for little at a time: rustls asks for a quarter of a record.
/// A reader that is sent little gets it without a copy, and a connection that waits holds nothing.
pub struct ReadAhead<T> {
    io: T,
    ahead: Vec<u8>,
    used: usize,
    /// Whether the last read brought all that it had room for: there is more.
    full: bool,
}

impl<T> ReadAhead<T> {
    /// Nothing is read yet.
    pub fn new(io: T) -> Self {
        Self { io, ahead: Vec::new(), used: 0, full: false }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = &this.ahead[this.used..];
        if !rest.is_empty() {
            let n = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..n]);
            this.used += n;
            if this.used == this.ahead.len() {
                (this.ahead, this.used) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        if !this.full || buf.remaining() >= MOST {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            this.full = buf.remaining() == 0;
            return Poll::Ready(Ok(()));
        }
        ROOM.with_borrow_mut(|room| {
            let mut room = ReadBuf::new(room);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut room))?;
            let (now, later) = room.filled().split_at(room.filled().len().min(buf.remaining()));
            buf.put_slice(now);
            this.ahead.extend_from_slice(later);
            this.full = buf.remaining() == 0;
            Poll::Ready(Ok(()))
        })
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_whatever_the_reader_asks_for() {
        let sent: Vec<u8> = (0..500_000u32).map(|n| (n * 7 / 5) as u8).collect();
        for ask in [1, 4096, 5000, MOST, MOST + 1] {
            let (near, mut far) = tokio::io::duplex(100_000);
            let all = sent.clone();
            let sender = tokio::spawn(async move {
                for piece in all.chunks(33_333) {
                    far.write_all(piece).await.unwrap();
                }
            });
            let (mut reader, mut got, mut room) = (ReadAhead::new(near), Vec::new(), vec![0; ask]);
            loop {
                match reader.read(&mut room).await.unwrap() {
                    0 => break,
                    n => got.extend_from_slice(&room[..n]),
                }
            }
            assert!(got == sent, "asked for {ask} at a time");
            assert_eq!(reader.ahead.capacity(), 0, "what waits holds nothing");
            sender.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_reader_that_asks_for_little_costs_few_reads() {
        /// Counts reads.
        struct Counting(tokio::io::DuplexStream, usize);
        impl AsyncRead for Counting {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                self.1 += 1;
                Pin::new(&mut self.0).poll_read(cx, buf)
            }
        }
        let (near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(&vec![1; 16 * 4096]).await.unwrap();
        let mut reader = ReadAhead::new(Counting(near, 0));
        let mut room = [0; 4096];
        for _ in 0..16 {
            reader.read_exact(&mut room).await.unwrap();
        }
        assert_eq!(reader.io.1, 2);
    }

    #[test]
    fn a_connection_can_be_watched_by_another_runtime_and_be_unknown_to_the_first() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut far, _) = listener.accept().unwrap();
            std::io::copy(&mut far.try_clone().unwrap(), &mut far).unwrap();
        });
        let (first, second) = (runtime(), runtime());
        let mut stream = first.block_on(async { Stream::Plain(TcpStream::connect(address).await.unwrap()) });
        second.block_on(async move {
            stream.watch_here().unwrap();
            // A socket of a runtime that is gone answers with errors.
            drop(tokio::task::spawn_blocking(move || drop(first)).await);
            stream.write_all(b"hello").await.unwrap();
            let mut got = [0; 5];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"hello");
        });
        echo.join().unwrap();
    }
}
