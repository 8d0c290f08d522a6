use super::*;
use crate::admission::requests::TRACKED;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn rules(connections: usize, requests: Option<(u32, u32)>, exempt: &[&str]) -> Rules {
    Rules {
        connections,
        requests: requests.map(|(rate, burst)| RequestRate { rate, burst, ipv6_prefix: 64 }),
        exempt: exempt.iter().map(|n| n.parse().unwrap()).collect(),
    }
}

#[test]
fn a_client_has_so_many_connections_and_one_more_when_one_has_ended() {
    let admission = Admission::new(&rules(2, None, &[]));
    let first = admission.connection(ip("192.0.2.1")).unwrap();
    let second = admission.connection(ip("::ffff:192.0.2.1")).unwrap();
    assert_eq!(admission.connection(ip("192.0.2.1")).unwrap_err(), Refused { limit: 2 });
    let other = admission.connection(ip("192.0.2.2")).unwrap();
    drop(first);
    let third = admission.connection(ip("192.0.2.1")).unwrap();
    assert!(admission.connection(ip("192.0.2.1")).is_err());
    drop((second, third, other));
    assert_eq!(admission.open.clients(), 0, "nothing is remembered about who has left");
}

#[test]
fn an_ipv6_network_is_one_client() {
    let admission = Admission::new(&rules(1, Some((1, 1)), &[]));
    let _one = admission.connection(ip("2001:db8::1")).unwrap();
    assert!(admission.connection(ip("2001:db8::ffff:2")).is_err());
    let _other = admission.connection(ip("2001:db8:0:1::1")).unwrap();
    assert!(admission.request(ip("2001:db8::1")).is_ok());
    assert!(admission.request(ip("2001:db8::2")).is_err());
    assert!(admission.request(ip("2001:db8:0:1::1")).is_ok());
    // The unspecified network and IPv4 are not the same client.
    assert!(admission.request(ip("::1")).is_ok());
    assert!(admission.request(ip("0.0.0.1")).is_ok());
}

#[test]
fn exempt_networks_have_no_limits() {
    let admission = Admission::new(&rules(1, Some((1, 1)), &["10.0.0.0/8"]));
    let held: Vec<_> = (0..10).map(|_| admission.connection(ip("10.1.2.3")).unwrap()).collect();
    for _ in &held {
        assert!(admission.request(ip("::ffff:10.1.2.3")).is_ok());
    }
}

#[test]
fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
    let buckets = Buckets::new(RequestRate { rate: 10, burst: 5, ipv6_prefix: 64 });
    let start = Instant::now();
    let client = ip("192.0.2.1");
    for _ in 0..5 {
        assert_eq!(buckets.take(client, start), Ok(()));
    }
    let wait = buckets.take(client, start).unwrap_err();
    assert_eq!(wait.0, Duration::from_millis(100));
    assert_eq!(wait.seconds(), 1, "RFC 9110 section 10.2.3 knows whole seconds");
    assert_eq!(buckets.take(ip("192.0.2.2"), start), Ok(()));
    // Being refused costs nothing: whoever waits as told is served.
    assert!(buckets.take(client, start + Duration::from_millis(99)).is_err());
    assert_eq!(buckets.take(client, start + Duration::from_millis(101)), Ok(()));
    assert!(buckets.take(client, start + Duration::from_millis(102)).is_err());
    // In a quiet second it fills up, and not beyond its burst.
    let later = start + Duration::from_secs(60);
    assert_eq!((0..20).filter(|_| buckets.take(client, later).is_ok()).count(), 5);
}

#[test]
fn clients_are_forgotten_and_never_more_than_so_many_are_remembered() {
    let buckets = Buckets::new(RequestRate { rate: 1, burst: 100, ipv6_prefix: 128 });
    let start = Instant::now();
    let greedy = ip("192.0.2.1");
    while buckets.take(greedy, start).is_ok() {}
    for i in 0..2 * TRACKED as u128 {
        assert_eq!(buckets.take(std::net::Ipv6Addr::from_bits((0x2001 << 112) + i).into(), start), Ok(()));
    }
    assert!(buckets.tracked() <= TRACKED, "{} of {TRACKED}", buckets.tracked());
    assert!(buckets.tracked() > TRACKED / 2);
    assert!(buckets.take(greedy, start).is_err(), "who asked too much is not forgotten in the crowd");
    // Once their buckets are full, they make room.
    let later = start + Duration::from_secs(1000);
    for i in 0..TRACKED as u128 {
        assert_eq!(buckets.take(std::net::Ipv6Addr::from_bits((0x2002 << 112) + i).into(), later), Ok(()));
    }
    assert!(buckets.tracked() <= TRACKED);
}

#[test]
fn a_flood_of_log_lines_is_one_line() {
    let limiter = crate::log_limiter::LogLimiter::new();
    assert_eq!(limiter.ask(), Some(0));
    for _ in 0..5 {
        assert_eq!(limiter.ask(), None);
    }
}
