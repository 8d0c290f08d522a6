use super::*;

const SECRET: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

struct File(tempfile::TempDir);

impl File {
    fn with(text: &str) -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("ticket.secret")
    }

    fn tickets(&self) -> Arc<ClusterTickets> {
        ClusterTickets::load(&self.path(), Vec::new()).unwrap()
    }
}

fn with(text: &str) -> Arc<ClusterTickets> {
    File::with(text).tickets()
}

fn other() -> String {
    SECRET.replace("00", "ff")
}

#[test]
fn a_node_with_the_same_secret_opens_the_ticket_and_one_with_another_does_not() {
    let ticket = with(SECRET).seal(b"state", 100).unwrap();
    assert_eq!(with(SECRET).open(&ticket, 100).as_deref(), Some(&b"state"[..]));
    assert_eq!(with(&other()).open(&ticket, 100), None);
    assert!(!ticket.windows(5).any(|w| w == b"state"));
}

#[test]
fn hexadecimal_and_base64_of_the_same_bytes_are_the_same_secret() {
    let bytes: Vec<u8> = (0..32).collect();
    let ticket = with(SECRET).seal(b"state", 7).unwrap();
    assert!(with(&STANDARD.encode(bytes)).open(&ticket, 7).is_some());
}

#[test]
fn a_ticket_opens_one_epoch_later_and_on_a_clock_that_lags_but_not_two_epochs_later() {
    let tickets = with(SECRET);
    let ticket = tickets.seal(b"state", 100).unwrap();
    assert!(tickets.open(&ticket, 99).is_some());
    assert!(tickets.open(&ticket, 101).is_some());
    assert!(tickets.open(&ticket, 102).is_none());
    assert!(tickets.open(&ticket, 98).is_none());
    assert_ne!(ticket[..NAME], tickets.seal(b"state", 101).unwrap()[..NAME]);
}

#[test]
fn tickets_of_a_server_that_asks_other_things_of_its_clients_do_not_open() {
    let file = File::with(SECRET);
    let open_to_all = file.tickets();
    let guarded = ClusterTickets::load(&file.path(), vec![1; 32]).unwrap();
    let ticket = open_to_all.seal(b"no certificate", 5).unwrap();
    assert!(guarded.open(&ticket, 5).is_none());
}

#[test]
fn a_ticket_that_was_changed_anywhere_or_cut_does_not_open() {
    let tickets = with(SECRET);
    let ticket = tickets.seal(b"the state of a session", 3).unwrap();
    for at in 0..ticket.len() {
        let mut changed = ticket.clone();
        changed[at] ^= 1;
        assert!(tickets.open(&changed, 3).is_none(), "byte {at}");
        assert!(tickets.open(&ticket[..at], 3).is_none(), "cut at {at}");
    }
    assert!(tickets.open(&[ticket.as_slice(), &[0]].concat(), 3).is_none());
    assert!(tickets.open(&vec![0; LONGEST_TICKET + 1], 3).is_none());
}

#[test]
fn a_rotation_opens_old_tickets_while_the_old_secret_is_in_the_file() {
    let file = File::with(SECRET);
    let tickets = file.tickets();
    let old = tickets.seal(b"state", now()).unwrap();
    file.write(&format!("{}\n# until tonight\n{SECRET}\n", other()));
    tickets.reload(&file.path()).unwrap();
    assert!(tickets.open(&old, now()).is_some());
    let new = tickets.seal(b"state", now()).unwrap();
    assert!(with(&other()).open(&new, now()).is_some());
    file.write(&other());
    tickets.reload(&file.path()).unwrap();
    assert!(tickets.open(&old, now()).is_none());
}

#[test]
fn a_bad_file_is_refused_in_words_and_the_former_secret_stays() {
    let file = File::with(SECRET);
    let tickets = file.tickets();
    for (text, words) in [
        ("", "holds no ticket secret"),
        ("not a secret!", "line 1 is neither"),
        ("00ff", "2 bytes; it must have 32"),
        (&format!("{SECRET}\n{SECRET}\n{SECRET}\n{SECRET}"), "holds 4 ticket secrets"),
    ] {
        file.write(text);
        let e = tickets.reload(&file.path()).unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
        assert!(!text.contains("not a") || !e.contains("not a secret"), "the message shows the file: {e}");
    }
    let ticket = with(SECRET).seal(b"state", 9).unwrap();
    assert!(tickets.open(&ticket, 9).is_some());
}

#[test]
fn what_clients_are_told_is_what_every_ticket_reaches() {
    assert_eq!(u64::from(with(SECRET).lifetime()), EPOCH_SECONDS);
}
