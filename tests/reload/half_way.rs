//! What goes wrong half way: either process ends, stands still or is asked to stop, or the reload is given up.

use std::io::{BufRead as _, Write as _};

use super::*;

/// A back end that only the new configuration has, and that keeps the new process at its first checks until this is dropped.
struct Slow(TcpListener);

impl Slow {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// Version 2, whose process will be kept.
    fn version(&self) -> String {
        let at = self.0.local_addr().unwrap();
        let pool = format!(
            "[pools.slow]\nbackends = [{{ name = \"slow\", address = \"{at}\" }}]\nhealth = {{ timeout = \"1m\", interval = \"1m\" }}"
        );
        format!("{}\n{pool}", version(2))
    }

    /// A connection of the new process, which has taken the sockets by now.
    async fn checked(&self) -> TcpStream {
        timeout(PATIENCE, self.0.accept()).await.expect("a check").unwrap().0
    }
}

type Reload = tokio::task::JoinHandle<(i32, String)>;

/// A reload whose new process has the sockets and does not serve yet.
async fn begun(slow: &Slow) -> (Arc<Scene>, Reload, TcpStream) {
    let scene = Arc::new(Scene::start("").await);
    scene.configure(&slow.version());
    let reloading = scene.clone();
    let reload = tokio::task::spawn_blocking(move || reloading.successors.try_reload(|_| {}));
    let check = slow.checked().await;
    (scene, reload, check)
}

/// Whether none of its threads runs.
fn is_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stat = |task: std::path::PathBuf| std::fs::read_to_string(task.join("stat")).unwrap_or_default();
    tasks
        .map(|task| stat(task.unwrap().path()))
        .all(|s| s.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
}

fn kill(pid: &Value) {
    let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(killed.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_process_serves_where_the_one_before_was_killed_meanwhile() {
    let slow = Slow::start().await;
    let (scene, reload, check) = begun(&slow).await;
    scene.first.signal("KILL");
    drop((slow, check));
    let (code, said) = reload.await.unwrap();
    assert_eq!(code, 0, "{said}");
    assert_eq!(scene.version().await, "2");
    // And it can be reloaded in its turn.
    scene.configure(&version(3));
    scene.successors.reload();
    assert_eq!(scene.version().await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_runs_does_not_let_go_for_one_that_has_ended() {
    let slow = Slow::start().await;
    let (scene, reload, check) = begun(&slow).await;
    // A machine that pauses, or a process that finds no memory.
    scene.first.signal("STOP");
    until("it stands still", || async { is_stopped(scene.first.pid()) }).await;
    drop((slow, check));
    // The new one serves, and waits for the one before.
    assert_eq!(scene.version().await, "2");
    assert_ne!(scene.status().await["pid"], scene.first.pid());
    kill(&scene.status().await["pid"]);
    assert_eq!(reload.await.unwrap().0, 1);
    scene.first.signal("CONT");
    assert_eq!(scene.version().await, "1");
    scene.configure(&version(3));
    scene.successors.reload();
    assert_eq!(scene.version().await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_is_given_up_does_not_happen_later() {
    let (scene, slow) = (Scene::start("").await, Slow::start().await);
    scene.configure(&slow.version());
    let mut command = Command::new(built("trivet-balancer"));
    command.args(["--reload", "--config"]).arg(&scene.config);
    let mut reload = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut check = slow.checked().await;
    for _ in 0..20 {
        assert_eq!(
            scene.status().await["pid"],
            scene.first.pid(),
            "who serves is asked, and not who may serve"
        );
    }
    reload.kill().unwrap();
    reload.wait().unwrap();
    let mut rest = Vec::new();
    // Its question, and then its end.
    timeout(PATIENCE, check.read_to_end(&mut rest)).await.expect("the new process ends").unwrap();
    assert_eq!(scene.version().await, "1");
    assert_eq!(scene.status().await["pid"], scene.first.pid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_comes_during_a_reload_is_a_stop() {
    let slow = Slow::start().await;
    let (scene, reload, check) = begun(&slow).await;
    scene.first.signal("TERM");
    until("the one before has ended", || async {
        TcpStream::connect(scene.at(2)).await.is_err() || is_zombie(scene.first.pid())
    })
    .await;
    drop((slow, check));
    let (code, said) = reload.await.unwrap();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("it was asked to stop"), "{said}");
    assert!(TcpStream::connect(scene.at(0)).await.is_err(), "nobody serves");
}

/// In the place of a process that runs: what one that takes over says, and the connection to answer it.
fn asked(listener: &UnixListener) -> (String, UnixStream) {
    let stream = listener.accept().unwrap().0;
    let mut hello = String::new();
    std::io::BufReader::new(&stream).read_line(&mut hello).unwrap();
    (hello, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_reloads_at_once_the_second_takes_over_from_the_first() {
    let (authority, origin) = (Authority::new(), Origin::start().await);
    let config = write(&authority, &origin, free_ports(), "");
    let listener = UnixListener::bind(authority.path("run").join("handover.sock")).unwrap();
    let run = authority.path("run");
    let runs = std::thread::spawn(move || {
        // Another one has taken over: those who wait are sent away, and for a moment nobody listens. Then who serves now is asked.
        drop(asked(&listener));
        drop(listener);
        let listener = UnixListener::bind(run.join("next")).unwrap();
        std::fs::rename(run.join("next"), run.join("handover.sock")).unwrap();
        let (hello, mut stream) = asked(&listener);
        stream.write_all(b"{\"error\": \"asked once more\"}\n").unwrap();
        hello
    });
    let (code, said) = Successors::of(&config).try_reload(|_| {});
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("asked once more"), "{said}");
    assert!(runs.join().unwrap().contains("notified"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_drain_that_never_ends_cuts_nobody_off() {
    let mut scene = Scene::start("drain_timeout = \"9000years\"").await;
    let mut download = scene.open().await;
    download.send(&format!("GET /download HTTP/1.1\r\nHost: {SITE}\r\n\r\n")).await;
    download.until("begun").await;
    scene.successors.reload();
    let before = scene.first.pid();
    until("the process before reports", || async {
        let status = scene.status().await;
        status["draining"]
            .as_array()
            .unwrap()
            .iter()
            .any(|d| d["pid"] == before && d["connections"] == 1 && d["until"].is_null())
    })
    .await;
    scene.origin.go_on.send_replace(true);
    assert_eq!(download.until("ended").await, "ended");
    drop(download);
    assert!(scene.first.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_takes_in_one_of_before_is_refused_with_the_remedy() {
    let scene = Scene::start("").await;
    let text = std::fs::read_to_string(&scene.config).unwrap();
    let port = scene.ports[0];
    std::fs::write(&scene.config, text.replace(&format!("127.0.0.1:{port}"), &format!("0.0.0.0:{port}")))
        .unwrap();
    let (code, said) = scene.successors.try_reload(|_| {});
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains(&format!("127.0.0.1:{port} is listened on as well")) && said.contains("restart"),
        "{said}"
    );
    assert_eq!(scene.version().await, "1");
}
