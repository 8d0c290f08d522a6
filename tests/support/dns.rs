//! A DNS server that knows one thing at a time, and says it to everybody (RFC 1035 section 4).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

/// What the server says to a question.
#[derive(Debug, Clone)]
pub enum Says {
    /// The name has these addresses.
    Has(Vec<IpAddr>),
    /// There is no such name: NXDOMAIN.
    NoName,
    /// It failed: SERVFAIL.
    Failed,
    /// Nothing.
    Nothing,
    /// Octets that are no message.
    Garbage,
}

struct State {
    says: Mutex<Says>,
    asked: Mutex<Vec<String>>,
    stop: CancellationToken,
}

pub struct Dns {
    pub address: SocketAddr,
    state: Arc<State>,
}

/// The most of a datagram (RFC 6891 section 6.2.5).
const DATAGRAM: usize = 1232;

impl Dns {
    /// Listens on a free port, UDP and TCP alike.
    pub async fn start(says: Says) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // Somebody else may have the same port of TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let state = Arc::new(State {
            says: Mutex::new(says),
            asked: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let of_task = state.clone();
        tokio::spawn(async move {
            let stop = of_task.stop.clone();
            tokio::select! {
                () = datagrams(udp, &of_task) => {}
                () = streams(tcp, &of_task) => {}
                () = stop.cancelled() => {}
            }
        });
        Self { address, state }
    }

    pub fn says(&self, says: Says) {
        *self.state.says.lock() = says;
    }

    /// As [`says`](Self::says), with addresses.
    pub fn has(&self, addresses: &[&str]) {
        self.says(has(addresses));
    }

    /// The questions so far, each a name and a type: `"app.internal A"`.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().clone()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.state.stop.cancel();
    }
}

pub fn has(addresses: &[&str]) -> Says {
    Says::Has(addresses.iter().map(|a| a.parse().unwrap()).collect())
}

async fn datagrams(socket: UdpSocket, state: &State) {
    let mut buffer = [0; 1500];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(answer) = state.answer(&buffer[..n], DATAGRAM) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn streams(listener: TcpListener, state: &State) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        // One question at a time is enough.
        while let Ok(n) = stream.read_u16().await {
            let mut question = vec![0; n.into()];
            if stream.read_exact(&mut question).await.is_err() {
                break;
            }
            let Some(answer) = state.answer(&question, u16::MAX.into()) else { break };
            let framed = [&u16::try_from(answer.len()).unwrap().to_be_bytes()[..], &answer].concat();
            if stream.write_all(&framed).await.is_err() {
                break;
            }
        }
    }
}

impl State {
    /// The answer, cut off where it is longer than `most` (RFC 1035 section 4.2.1).
    fn answer(&self, question: &[u8], most: usize) -> Option<Vec<u8>> {
        const A: u16 = 1;
        const AAAA: u16 = 28;
        let (name, end) = name(question)?;
        let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
        self.asked.lock().push(format!("{name} {}", if kind == AAAA { "AAAA" } else { "A" }));
        let (code, addresses) = match self.says.lock().clone() {
            Says::Has(all) => (0, all),
            Says::Failed => (2, Vec::new()),
            Says::NoName => (3, Vec::new()),
            Says::Nothing => return None,
            Says::Garbage => return Some([&question[..2], &[0xff; 40]].concat()),
        };
        let mut records = Vec::new();
        let mut count: u16 = 0;
        let mut is_cut = false;
        for address in addresses {
            let (of, data) = match address {
                IpAddr::V4(four) => (A, four.octets().to_vec()),
                IpAddr::V6(six) => (AAAA, six.octets().to_vec()),
            };
            if of != kind {
                continue;
            }
            // The name by its place, type, class IN, a second to live.
            let head =
                [&[0xc0, 12][..], &of.to_be_bytes(), &[0, 1, 0, 0, 0, 1, 0, data.len() as u8]].concat();
            if end + 4 + records.len() + head.len() + data.len() > most {
                is_cut = true;
                break;
            }
            records.extend(head);
            records.extend(data);
            count += 1;
        }
        // A response, recursion desired and available.
        let flags = [0x81 | u8::from(is_cut) << 1, 0x80 | code];
        let counts = [&[0, 1][..], &count.to_be_bytes(), &[0, 0, 0, 0]].concat();
        Some([&question[..2], &flags, &counts, &question[12..end + 4], &records].concat())
    }
}

/// The name that is asked for, and where it ends.
fn name(question: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}
