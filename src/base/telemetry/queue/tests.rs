use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::*;

/// Takes nothing until somebody reads, as a full pipe does.
struct Pipe(SyncSender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.send(octets.to_vec()).map_err(|_| ErrorKind::BrokenPipe)?;
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn queue(room: usize, reserve: usize) -> (Arc<Queue>, Receiver<Vec<u8>>) {
    let queue = Arc::new(Queue::new(room, reserve));
    let ((out, read), served) = (sync_channel(0), queue.clone());
    std::thread::spawn(move || served.serve(Pipe(out), |lost| format!("lost {lost}\n").into_bytes()));
    (queue, read)
}

fn read(pipe: &Receiver<Vec<u8>>) -> String {
    String::from_utf8(pipe.recv_timeout(Duration::from_secs(20)).expect("a line")).unwrap()
}

#[test]
fn what_nobody_reads_is_dropped_and_its_number_stands_where_it_is_missing() {
    let (queue, pipe) = queue(20, 10);
    queue.push(Source::Program, b"first\n");
    // The thread has the line in its hands, and nobody takes it.
    while !queue.state.lock().writing {
        std::thread::yield_now();
    }
    for n in 0..100 {
        queue.push(Source::Access, format!("line {n:04}\n").as_bytes());
    }
    queue.push(Source::Program, b"important\n");
    queue.flush(Duration::from_millis(1));
    assert_eq!(read(&pipe), "first\n");
    assert_eq!(read(&pipe), "line 0000\nline 0001\nimportant\n");
    assert_eq!(read(&pipe), "lost 98\n");
    queue.push(Source::Access, b"again\n");
    assert_eq!(read(&pipe), "again\n");
}

#[test]
fn a_flush_waits_for_what_was_pushed() {
    let (queue, pipe) = queue(1000, 0);
    let reader = std::thread::spawn(move || (read(&pipe), pipe));
    queue.push(Source::Access, b"a line\n");
    queue.flush(Duration::from_secs(20));
    assert!(queue.state.lock().lines.is_empty() && reader.join().unwrap().0 == "a line\n");
}
