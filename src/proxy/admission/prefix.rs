//! What is one client: the key under which it is counted.

use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 address, or the first bits of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Prefix(u128);

impl Prefix {
    /// `bits` are those of IPv6; an IPv4 address is one client, also when it is mapped into IPv6.
    pub(super) fn new(address: IpAddr, bits: u8) -> Self {
        match address.to_canonical() {
            // Mapped: no masked IPv6 address is equal to one of these, for a mapped one never gets to the other branch.
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self(masked(v6, bits)),
        }
    }
}

fn masked(address: Ipv6Addr, bits: u8) -> u128 {
    address.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0)
}
