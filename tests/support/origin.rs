//! A back end that either answers every request with the same bytes, or leaves its connections to the test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use super::backend::refused;
use super::link::{Broken, Link, Message};

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

struct Shared {
    answer: Mutex<Option<Vec<u8>>>,
    seen: Mutex<Vec<Message>>,
    broken: Mutex<Vec<Broken>>,
    connections: AtomicUsize,
    links: mpsc::UnboundedSender<(Message, Link)>,
    stop: CancellationToken,
}

pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    links: tokio::sync::Mutex<mpsc::UnboundedReceiver<(Message, Link)>>,
}

impl Origin {
    /// Listens on a free port with this certificate and answers [`OK`].
    pub async fn start(tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (links, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            answer: Mutex::new(Some(OK.into())),
            seen: Mutex::default(),
            broken: Mutex::default(),
            connections: AtomicUsize::new(0),
            links,
            stop: CancellationToken::new(),
        });
        let s = shared.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = s.stop.cancelled() => return,
                };
                let _ = tcp.set_nodelay(true);
                let (s, acceptor) = (s.clone(), TlsAcceptor::from(tls.clone()));
                tokio::spawn(async move {
                    let stop = s.stop.clone();
                    let talk = async {
                        if let Ok(stream) = acceptor.accept(tcp).await {
                            talk(Link::new(Box::new(stream)), &s).await;
                        }
                    };
                    tokio::select! { () = talk => {}, () = stop.cancelled() => {} }
                });
            }
        });
        Self { address, shared, links: tokio::sync::Mutex::new(receiver) }
    }

    /// Answers every request with these bytes from now on.
    pub fn answers(&self, bytes: impl AsRef<[u8]>) {
        *self.shared.answer.lock() = Some(bytes.as_ref().to_vec());
    }

    /// Leaves every further connection to [`next`](Self::next).
    pub fn waits(&self) {
        *self.shared.answer.lock() = None;
    }

    /// The next connection that brought a request head, while the origin [waits](Self::waits): the head, and the
    /// connection after it.
    pub async fn next(&self) -> (Message, Link) {
        let mut links = self.links.lock().await;
        tokio::time::timeout(PATIENCE, links.recv()).await.expect("no request came").unwrap()
    }

    /// Whole requests so far, checks left out.
    pub fn seen(&self) -> Vec<Message> {
        self.shared.seen.lock().clone()
    }

    /// Requests that were cut or badly framed.
    pub fn broken(&self) -> Vec<Broken> {
        self.shared.broken.lock().clone()
    }

    /// Connections that brought at least one byte of a request.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// As `kill -9`: no listener, no connections, once this returns.
    pub async fn kill(&self) {
        self.shared.stop.cancel();
        refused(self.address).await;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

async fn talk(mut link: Link, shared: &Shared) {
    let mut first = true;
    loop {
        let answer = shared.answer.lock().clone();
        let message = match answer {
            Some(_) => link.request().await,
            None => link.head().await,
        };
        let check = matches!(&message, Ok(m) if m.line().starts_with("GET /healthz "));
        if check {
            if !link.try_send(OK).await {
                return;
            }
            continue;
        }
        if first && !matches!(message, Err(Broken::NoMessage(_))) {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            first = false;
        }
        // Asked again: the test may have changed its mind while the connection was idle.
        let answer = shared.answer.lock().clone();
        match (message, answer) {
            (Ok(message), None) => {
                let _ = shared.links.send((message, link));
                return;
            }
            (Ok(message), Some(answer)) => {
                shared.seen.lock().push(message);
                if !link.try_send(answer).await {
                    return;
                }
            }
            (Err(Broken::NoMessage(_)), _) => return,
            (Err(broken), _) => {
                shared.broken.lock().push(broken);
                return;
            }
        }
    }
}
