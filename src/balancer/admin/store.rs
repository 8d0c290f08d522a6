//! Orders in a file, so that a restart does not forget them.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use trivet_balancer_api::Orders;

/// Octets of the file; thousands of orders take less.
const MOST: u64 = 8 << 20;

/// What is there; nothing when there is no file. One that makes no sense is put aside, with `.unreadable` behind its name.
pub fn load(path: &Path) -> io::Result<Orders> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Orders::default()),
        Err(e) => return Err(e),
    };
    let mut octets = Vec::new();
    file.take(MOST).read_to_end(&mut octets)?;
    Ok(serde_json::from_slice(&octets).unwrap_or_else(|e| {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".unreadable");
        let moved = fs::rename(path, &aside);
        tracing::error!(file = %path.display(), error = %e, put_aside = moved.is_ok(), "what was ordered before cannot be read: everything is as it is configured");
        Orders::default()
    }))
}

/// Writes it, whole or not at all.
pub fn save(path: &Path, orders: &Orders) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let written = (|| {
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(orders)?)?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use trivet_balancer_api::{Key, Order};

    #[test]
    fn what_is_saved_is_there_again_and_what_makes_no_sense_is_put_aside() {
        let folder = std::env::temp_dir().join(format!("trivet-store-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("orders.json");
        assert_eq!(load(&path).unwrap(), Orders::default());
        let mut orders = Orders::default();
        orders.set(Key::Node("node3".into()), Some(Order::Drained), "node1", 5);
        save(&path, &orders).unwrap();
        assert_eq!(load(&path).unwrap(), orders);
        fs::write(&path, "{\"node/").unwrap();
        assert_eq!(load(&path).unwrap(), Orders::default());
        assert!(folder.join("orders.json.unreadable").exists());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(save(&folder.join("no/such"), &orders).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
