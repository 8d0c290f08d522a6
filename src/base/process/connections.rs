//! Servers beside the site: for those who look after a program, and for its like on other nodes. They have so many connections at
//! a time, each a task that is waited for.

use std::error::Error;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Without descriptors nobody can be accepted; trying again at once would spin.
const NO_DESCRIPTORS: Duration = Duration::from_secs(1);

/// A listener of either kind.
pub trait Listener: Send {
    type Connection: Send + 'static;
    /// As accept(2).
    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
    /// Where it listens, for the log.
    fn name(&self) -> String;
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }

    fn name(&self) -> String {
        self.local_addr().map(|a| a.to_string()).unwrap_or_default()
    }
}

impl Listener for UnixListener {
    type Connection = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }

    fn name(&self) -> String {
        let address = self.local_addr().ok();
        address.and_then(|a| a.as_pathname().map(|p| p.display().to_string())).unwrap_or_default()
    }
}

/// Serves connections until `end`, `most` at a time; further ones wait in the kernel's queue. Then the token that each was given
/// is cancelled, and they are waited for.
pub async fn serve_each<L: Listener, F>(
    listener: L,
    most: usize,
    end: impl Future<Output = ()>,
    serve: impl Fn(L::Connection, CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let ending = CancellationToken::new();
    let limit = Arc::new(Semaphore::new(most));
    tokio::pin!(end);
    loop {
        let next = async {
            let place = limit.clone().acquire_owned().await.ok();
            listener.accept().await.map(|connection| (connection, place))
        };
        let accepted = tokio::select! { accepted = next => accepted, () = &mut end => break };
        match accepted {
            Ok((connection, place)) => {
                let served = serve(connection, ending.clone());
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            // Reset in the queue: the next one may not be.
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(e) => {
                tracing::warn!(error = %e, address = listener.name(), "cannot accept a connection; see LimitNOFILE when files are too many");
                tokio::select! { () = tokio::time::sleep(NO_DESCRIPTORS) => {}, () = &mut end => break }
            }
        }
    }
    drop(listener);
    ending.cancel();
    connections.close();
    connections.wait().await;
}

/// HTTP/1 on one connection until its end; after `ending` it ends with the answer to the request in flight, or `grace` later.
pub async fn serve_http1<S, B>(
    http: &http1::Builder,
    io: impl AsyncRead + AsyncWrite + Unpin,
    service: S,
    ending: impl Future<Output = ()>,
    grace: Duration,
) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connection = http.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    tokio::select! {
        outcome = &mut connection => return outcome,
        () = ending => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(grace, connection).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::oneshot;

    use super::*;

    /// Serves until the sender says so: each connection gets one octet, and is held until the server ends.
    async fn start(
        most: usize,
    ) -> (std::net::SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            let finished = Arc::new(AtomicUsize::new(0));
            let of_each = finished.clone();
            let end = async { drop(stopped.await) };
            serve_each(listener, most, end, move |mut stream: TcpStream, ending| {
                let finished = of_each.clone();
                async move {
                    stream.write_all(b"x").await.unwrap();
                    tokio::select! { () = ending.cancelled() => {}, _ = stream.read_u8() => {} }
                    finished.fetch_add(1, Ordering::Relaxed);
                }
            })
            .await;
            finished.load(Ordering::Relaxed)
        });
        (address, stop, served)
    }

    #[tokio::test]
    async fn those_beyond_the_limit_wait_for_a_place() {
        let (address, _stop, _served) = start(2).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        for stream in [&mut first, &mut second] {
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(50), third.read_u8()).await;
        assert!(nothing.is_err(), "a third is served beside the two");
        drop(first);
        assert_eq!(third.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn at_the_end_everyone_is_told_and_waited_for() {
        let (address, stop, served) = start(8).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
            held.push(stream);
        }
        drop(stop);
        assert_eq!(served.await.unwrap(), 3);
        assert!(TcpStream::connect(address).await.is_err(), "it still listens");
    }
}
