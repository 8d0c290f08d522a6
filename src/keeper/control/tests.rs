use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A command that takes until `go` is told to go on, at `/slow`, and whoever has its socket.
struct Slow {
    path: std::path::PathBuf,
    begun: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
    done: Arc<std::sync::atomic::AtomicBool>,
    stop: tokio::sync::watch::Sender<trivet_base::process::Phase>,
    served: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

fn slow() -> Slow {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let (begin, begun) = mpsc::channel(1);
    let (go, gone) = mpsc::channel::<()>(1);
    let gone = Arc::new(tokio::sync::Mutex::new(gone));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let commands = TaskTracker::new();
    let (of_route, is_done) = (commands.clone(), done.clone());
    let slow = move || {
        let (begin, gone, is_done) = (begin.clone(), gone.clone(), is_done.clone());
        let task = of_route.spawn(async move {
            begin.send(()).await.unwrap();
            gone.lock().await.recv().await;
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        async move { task.await.map_or("broken", |()| "moved") }
    };
    let (stop, shutdown) = Shutdown::channel();
    let (listener, own) = (bind(&path).unwrap(), std::fs::metadata(directory.path()).unwrap().uid());
    let served = tokio::spawn(serve_router(
        listener,
        own,
        Router::new().route("/slow", post(slow)),
        commands,
        shutdown,
    ));
    Slow { path, begun, go, done, stop, served, _directory: directory }
}

impl Slow {
    async fn asked(&mut self) -> UnixStream {
        let mut client = UnixStream::connect(&self.path).await.unwrap();
        client.write_all(b"POST /slow HTTP/1.1\r\nhost: keeper\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        self.begun.recv().await.unwrap();
        client
    }
}

#[tokio::test]
async fn a_command_that_is_carried_out_when_the_keeper_stops_is_answered() {
    let mut keeper = slow();
    let mut client = keeper.asked().await;
    keeper.stop.send(trivet_base::process::Phase::Stopping).unwrap();
    // Nobody is let in any more; whoever is in is served.
    while UnixStream::connect(&keeper.path).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!keeper.served.is_finished());
    keeper.go.send(()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nmoved"), "{answer}");
    keeper.served.await.unwrap();
}

#[tokio::test]
async fn a_command_whose_client_has_gone_is_carried_out_before_the_keeper_stops() {
    let mut keeper = slow();
    drop(keeper.asked().await);
    keeper.stop.send(trivet_base::process::Phase::Stopping).unwrap();
    while UnixStream::connect(&keeper.path).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let early = tokio::time::timeout(Duration::from_millis(100), &mut keeper.served).await;
    assert!(early.is_err(), "it has ended before the command has");
    keeper.go.send(()).await.unwrap();
    keeper.served.await.unwrap();
    assert!(keeper.done.load(std::sync::atomic::Ordering::Relaxed));
}

#[tokio::test]
async fn the_socket_is_the_keepers_own_and_a_stale_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let first = bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse, "another keeper's is left alone");
    drop(first);
    assert!(path.exists(), "a keeper that was killed leaves its socket behind");
    bind(&path).unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (file, link) = (directory.path().join("file"), directory.path().join("link"));
    std::fs::write(&file, "precious").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [&file, &link] {
        assert!(bind(path).is_err(), "{path:?}");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "precious");
    }
}
