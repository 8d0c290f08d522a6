//! PROXY headers.

use trivet_http::proxy_protocol::{self, Header, Version};

/// What was found does not change when more bytes come; what is written is read back.
pub fn header(bytes: &[u8]) {
    let whole = proxy_protocol::parse(bytes);
    let early = (0..bytes.len()).map(|n| proxy_protocol::parse(&bytes[..n])).find(|r| *r != Ok(None));
    if let Some(early) = early {
        assert_eq!(early, whole, "cut into bytes, the header is another");
    }
    if let Ok(Some((header, used))) = whole {
        assert!(used <= bytes.len());
        if let Header::Proxied { source, destination } = header
            // Written as the IPv4 addresses that they are, mapped ones come back as those.
            && [source, destination].iter().all(|a| a.ip().to_canonical() == a.ip())
            && source.is_ipv4() == destination.is_ipv4()
        {
            for version in [Version::V1, Version::V2] {
                let written = proxy_protocol::write(version, source, destination);
                assert_eq!(proxy_protocol::parse(&written), Ok(Some((header, written.len()))));
            }
        }
    }
}
