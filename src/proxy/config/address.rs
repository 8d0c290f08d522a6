//! Where a back end is, as a configuration says it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use trivet_base::address::{Address, UNIX};

/// The longest path of a unix socket, in bytes: `sun_path` has 108, the last of which is 0 (unix(7)).
const LONGEST_PATH: usize = 107;

/// `"10.77.0.21:8080"`, `"unix:/run/app/app.sock"` or `"app.internal:8080"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ServerAddress {
    /// One that does not change.
    Fixed(Address),
    /// A name, whose addresses are asked for, and a port.
    Name(Arc<str>, u16),
}

impl ServerAddress {
    /// What an HTTP client would ask for: a unix socket has no host, and nginx says `localhost` there.
    pub fn host(&self) -> String {
        match self {
            Self::Fixed(Address::Unix(_)) => "localhost".into(),
            other => other.to_string(),
        }
    }

    /// Whether it is a unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Fixed(Address::Unix(_)))
    }

    /// The name, where it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name, _) => Some(name),
            Self::Fixed(_) => None,
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return socket(path).map(|path| Self::Fixed(Address::Unix(path)));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(format!("{address} has port 0")),
                _ => Ok(Self::Fixed(address.into())),
            };
        }
        let ip = text.trim_matches(['[', ']']);
        if ip.parse::<IpAddr>().is_ok() {
            let example = if ip.contains(':') { format!("[{ip}]:8080") } else { format!("{ip}:8080") };
            return Err(format!("\"{text}\" has no port; write for example \"{example}\""));
        }
        let Some((name, port)) = text.rsplit_once(':') else {
            let remedy = match text.starts_with(['/', '.']) {
                true => format!("write \"{UNIX}/run/app/app.sock\" for a unix socket"),
                false => format!("write for example \"{text}:8080\""),
            };
            return Err(format!("\"{text}\" has no port; {remedy}"));
        };
        let port = port.parse().ok().filter(|port| *port != 0);
        let port =
            port.ok_or_else(|| format!("\"{text}\" has no port; write for example \"{name}:8080\""))?;
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") {
            return Err(format!(
                "\"{text}\" is this machine: write \"127.0.0.1:{port}\" or \"[::1]:{port}\""
            ));
        }
        if !is_host(&name) {
            return Err(format!(
                "\"{text}\" is no address: write \"10.77.0.21:{port}\", \"app.internal:{port}\" or \"{UNIX}/run/app/app.sock\""
            ));
        }
        Ok(Self::Name(name.into(), port))
    }
}

fn socket(path: &str) -> Result<Arc<Path>, String> {
    let invalid = |why: &str| Err(format!("\"{UNIX}{path}\" {why}"));
    if !path.starts_with('/') {
        return invalid("is no absolute path; write for example \"unix:/run/app/app.sock\"");
    }
    if path.ends_with('/') || path.contains('\0') {
        return invalid("names no file");
    }
    if path.len() > LONGEST_PATH {
        return invalid(&format!(
            "is longer than the {LONGEST_PATH} bytes that a socket's path may have (unix(7))"
        ));
    }
    Ok(Path::new(path).into())
}

/// Whether DNS can be asked for it (RFC 1035 section 2.3.4); with underscores, which names of services have (RFC 2782). One that ends
/// in a number is an address that is none (WHATWG URL, section 3.5).
fn is_host(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let is_label = |l: &str| {
        (1..=63).contains(&l.len()) && l.bytes().all(good) && !l.starts_with('-') && !l.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ServerAddress, String> {
        ServerAddress::try_from(text.to_owned())
    }

    #[test]
    fn addresses_sockets_and_names_are_told_apart() {
        for text in ["10.77.0.21:8080", "[2001:db8::1]:443", "unix:/run/app/app.sock", "unix:/run/a b"] {
            let address = read(text).unwrap();
            assert!(matches!(address, ServerAddress::Fixed(_)) && address.to_string() == text, "{text}");
        }
        for (text, name) in [
            ("app.internal:8080", "app.internal"),
            ("APP.Internal.:8080", "app.internal"),
            ("app:8080", "app"),
            ("_http.my_app.1a:8080", "_http.my_app.1a"),
        ] {
            assert_eq!(read(text), Ok(ServerAddress::Name(name.into(), 8080)), "{text}");
        }
        assert_eq!(read("unix:/run/app.sock").unwrap().host(), "localhost");
        assert_eq!(read("app.internal:8080").unwrap().host(), "app.internal:8080");
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_remedy() {
        for (text, why) in [
            ("unix:app.sock", "is no absolute path"),
            ("unix:@app", "is no absolute path"),
            ("unix:", "is no absolute path"),
            ("unix:/run/app/", "names no file"),
            ("unix:/run/\0", "names no file"),
            ("/run/app.sock", "unix:/run/app/app.sock"),
            ("10.77.0.21:0", "has port 0"),
            ("10.77.0.21", "\"10.77.0.21:8080\""),
            ("2001:db8::1", "\"[2001:db8::1]:8080\""),
            ("[2001:db8::1]", "\"[2001:db8::1]:8080\""),
            ("app.internal", "\"app.internal:8080\""),
            ("app.internal:http", "has no port"),
            ("app.internal:0", "has no port"),
            ("app.internal:80800", "has no port"),
            ("localhost:8080", "\"127.0.0.1:8080\""),
            ("10.77.0.300:8080", "is no address"),
            ("app..internal:8080", "is no address"),
            ("-app:8080", "is no address"),
            ("http://app:8080", "is no address"),
            ("app/x:8080", "is no address"),
            (":8080", "is no address"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains(why), "{text:?}: {refused}");
        }
        let long = format!("unix:/{}", "a".repeat(LONGEST_PATH - 1));
        assert!(read(&long).is_ok() && read(&format!("{long}a")).unwrap_err().contains("107 bytes"));
        let long = format!("{}:1", ["a".repeat(63).as_str(); 4].join("."));
        assert!(read(&long).is_err(), "longer than 253");
    }
}
