//! The threads that carry connections: one a core, each with a runtime of its own. A connection stays on the thread it was
//! given to, so nothing it uses moves between cores, and it is given to the thread that has the fewest.
//!
//! Each is a service of the server (Pingora's `work_stealing = false` gives it a current-thread runtime), so that others can
//! depend on it.

use std::cell::Cell;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::Gauge;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::server::{Server, ServiceHandle};
use super::{Beat, Heartbeats};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// A thread that has given none for so long stands still, and everybody's connections on it.
const STANDS_STILL: Duration = Duration::from_secs(10);

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// The number of the worker whose thread this is; 0 on any other thread.
pub fn here() -> usize {
    HERE.get()
}

/// All of them.
pub struct Workers {
    all: Box<[Worker]>,
    next: AtomicUsize,
}

#[derive(Default)]
struct Worker {
    started: OnceLock<(Handle, Gauge)>,
    connections: AtomicUsize,
}

/// One connection's place on a worker.
pub struct Place {
    workers: Arc<Workers>,
    index: usize,
}

/// How many there are unless the configuration says otherwise: as many as there are cores for this process.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Workers {
    /// Adds `threads` workers to a server; whoever is to use them depends on the handles.
    pub fn add(server: &mut Server, threads: usize) -> (Arc<Self>, Vec<ServiceHandle>) {
        let workers = Self::new(threads);
        let handles = (0..threads)
            .map(|index| {
                let (workers, heartbeats) = (workers.clone(), server.heartbeats());
                let name = format!("worker {index}");
                server.service(&name.clone(), &[], move |start| async move {
                    workers.start(index, &heartbeats, name);
                    start.ready();
                    Ok(())
                })
            })
            .collect();
        (workers, handles)
    }

    fn new(threads: usize) -> Arc<Self> {
        let all = (0..threads.max(1)).map(|_| Worker::default()).collect();
        Arc::new(Self { all, next: AtomicUsize::new(0) })
    }

    /// To be called on the worker's own thread.
    fn start(&self, index: usize, heartbeats: &Heartbeats, name: String) {
        HERE.set(index);
        let gauge = metrics::gauge!("trivet_worker_connections", "worker" => index.to_string());
        gauge.set(0.0);
        let _ = self.all[index].started.set((Handle::current(), gauge));
        tokio::spawn(live(heartbeats.expect(name, STANDS_STILL)));
    }

    /// A place on the worker that has the fewest connections; among those that have as few, each in turn.
    pub fn place(self: &Arc<Self>) -> Place {
        let (first, n) = (self.next.fetch_add(1, Ordering::Relaxed), self.all.len());
        let in_turn = (0..n).map(|i| first.wrapping_add(i) % n);
        let index = in_turn.min_by_key(|i| self.all[*i].connections.load(Ordering::Relaxed)).unwrap_or(0);
        Place::new(self, index)
    }

    /// Runs something beside the connections, on the worker of this number, counted in turns.
    pub fn spawn(&self, number: usize, work: impl Future<Output = ()> + Send + 'static) {
        self.all[number % self.all.len()].spawn(work);
    }

    /// For `/status`.
    pub fn status(&self) -> Value {
        self.all.iter().map(|w| json!({"connections": w.connections.load(Ordering::Relaxed)})).collect()
    }
}

async fn live(beat: Beat) {
    loop {
        beat.beat();
        tokio::time::sleep(BEAT).await;
    }
}

impl Worker {
    /// Whether this thread is it.
    fn is_here(&self) -> bool {
        let here = Handle::try_current().map(|h| h.id());
        self.started.get().is_some_and(|(runtime, _)| here.is_ok_and(|id| id == runtime.id()))
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match self.started.get() {
            Some((runtime, _)) => runtime.spawn(work),
            // Nobody who depends on it comes here.
            None => tokio::spawn(work),
        };
    }
}

impl Place {
    fn new(workers: &Arc<Workers>, index: usize) -> Self {
        let place = Self { workers: workers.clone(), index };
        place.worker().connections.fetch_add(1, Ordering::Relaxed);
        if let Some((_, gauge)) = place.worker().started.get() {
            gauge.increment(1.0);
        }
        place
    }

    fn worker(&self) -> &Worker {
        &self.workers.all[self.index]
    }

    /// Serves a connection there; the place is free once that has ended.
    pub fn serve<F>(self, tcp: TcpStream, serve: impl FnOnce(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let workers = self.workers.clone();
        let worker = &workers.all[self.index];
        if worker.is_here() {
            worker.spawn(async move {
                let _place = self;
                serve(tcp).await;
            });
            return;
        }
        // It is known to the runtime that accepted it, and has to be to the worker's.
        let Ok(tcp) = tcp.into_std() else { return };
        worker.spawn(async move {
            let _place = self;
            if let Ok(tcp) = TcpStream::from_std(tcp) {
                serve(tcp).await;
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker().connections.fetch_sub(1, Ordering::Relaxed);
        if let Some((_, gauge)) = self.worker().started.get() {
            gauge.decrement(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn loads(workers: &Workers) -> Vec<usize> {
        workers.all.iter().map(|w| w.connections.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn connections_are_spread_evenly() {
        let workers = Workers::new(3);
        let places: Vec<_> = (0..10).map(|_| workers.place()).collect();
        let mut spread = loads(&workers);
        spread.sort_unstable();
        assert_eq!(spread, [3, 3, 4]);
        drop(places);
        assert_eq!(loads(&workers), [0, 0, 0]);
    }

    #[test]
    fn a_worker_whose_connections_have_ended_gets_the_next_ones() {
        let workers = Workers::new(3);
        let (rest, gone): (Vec<_>, Vec<_>) = (0..12).map(|_| workers.place()).partition(|p| p.index != 1);
        drop(gone);
        let next: Vec<_> = (0..4).map(|_| workers.place()).collect();
        assert!(next.iter().all(|p| p.index == 1), "{:?}", loads(&workers));
        assert_eq!(rest.len(), 8);
    }

    #[test]
    fn a_worker_that_stands_still_is_missed() {
        let (workers, heartbeats) = (Workers::new(1), Heartbeats::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { workers.start(0, &heartbeats, "worker 0".into()) });
        let in_time = |seconds| tokio::time::Instant::now() + Duration::from_secs(seconds);
        assert_eq!(heartbeats.missed(in_time(5)), None);
        let missed = heartbeats.missed(in_time(15)).unwrap();
        assert!(missed.starts_with("worker 0 has not come round"), "{missed}");
    }

    #[tokio::test]
    async fn what_is_accepted_on_another_thread_is_served_on_the_workers() {
        let workers = Workers::new(2);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (told, started) = tokio::sync::oneshot::channel();
        let of_thread = workers.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                of_thread.start(1, &Heartbeats::default(), "worker 1".into());
                told.send(std::thread::current().id()).unwrap();
                while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    tokio::task::yield_now().await;
                }
            });
        });
        let other = started.await.unwrap();
        workers.start(0, &Heartbeats::default(), "worker 0".into());
        for expected in [std::thread::current().id(), other] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let (tell, served) = tokio::sync::oneshot::channel();
            workers.place().serve(accepted, |mut tcp| async move {
                tcp.write_all(b"x").await.unwrap();
                let _ = tell.send(std::thread::current().id());
            });
            assert_eq!(client.read_u8().await.unwrap(), b'x');
            assert_eq!(served.await.unwrap(), expected);
        }
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn one_after_the_other_they_take_turns() {
        let workers = Workers::new(2);
        let turns: Vec<usize> = (0..4).map(|_| workers.place().index).collect();
        assert_eq!(turns, [0, 1, 0, 1]);
    }
}
