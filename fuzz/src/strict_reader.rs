//! A reader of requests that forgives nothing, written apart from Trivet's own: what Trivet passes on, it must accept.

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Octets(u64),
    Chunked,
}

/// A head that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub method: String,
    pub target: String,
    pub length: Length,
    pub host: String,
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Reads a request head, its empty line included. RFC 9112 section 3 and 5, without any of its allowances.
pub fn head(bytes: &[u8]) -> Result<Head, String> {
    // Latin-1: every octet is a character.
    let text: String = bytes.iter().map(|b| char::from(*b)).collect();
    let text = text.strip_suffix("\r\n\r\n").ok_or("no empty line at the end")?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Err(format!("request line {line:?}")) };
    if !is_token(method) || target.is_empty() || !target.bytes().all(|b| (0x21..0x7f).contains(&b)) {
        return Err(format!("request line {line:?}"));
    }
    if !(target.starts_with('/') || (target == "*" && method == "OPTIONS")) || target.contains('#') {
        return Err(format!("target {target:?}"));
    }
    let (mut hosts, mut lengths, mut codings) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
        if !is_token(name) {
            return Err(format!("name {name:?}"));
        }
        let value = value.strip_prefix(' ').unwrap_or(value);
        let clean = |c: char| c == '\t' || (c >= ' ' && c != '\u{7f}');
        if !value.chars().all(clean) || value.trim_matches([' ', '\t']) != value {
            return Err(format!("value {value:?}"));
        }
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts.push(value),
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            "keep-alive" | "proxy-connection" => return Err(format!("{name} was passed on")),
            _ => {}
        }
    }
    let [host] = hosts[..] else { return Err(format!("{} hosts", hosts.len())) };
    let length = match (&lengths[..], &codings[..]) {
        ([], []) => Length::Octets(0),
        ([], ["chunked"]) => Length::Chunked,
        ([digits], []) => {
            let n: u64 = digits.parse().map_err(|_| format!("length {digits:?}"))?;
            if n.to_string() != *digits {
                return Err(format!("length {digits:?}"));
            }
            Length::Octets(n)
        }
        _ => return Err(format!("framed by {lengths:?} and {codings:?}")),
    };
    Ok(Head { method: method.into(), target: target.into(), length, host: host.into() })
}

/// Reads a chunked body without extensions or trailers: its content, and how many octets it took.
pub fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes[at..].iter().position(|b| *b == b'\r')?;
        let digits = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        at += line;
        (bytes.get(at..at + 2)? == b"\r\n").then_some(())?;
        at += 2;
        content.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        (bytes.get(at..at + 2)? == b"\r\n").then_some(())?;
        at += 2;
        if size == 0 {
            return Some((content, at));
        }
    }
}
