//! Every default of the balancer's file, with its reason.

use std::time::Duration;

use bytesize::ByteSize;

use trivet_http::forwarded::MOST_ADDED_FIELDS;
use trivet_http::request::MOST_FIELDS;

/// The most that `https.max_header_fields` may be: a web tier must be able to take what forwarding adds.
pub const MOST_HEADER_FIELDS: usize = MOST_FIELDS - MOST_ADDED_FIELDS;

/// Nothing of a site is for the eyes of the network in between.
pub fn redirect() -> bool {
    true
}
/// As HAProxy's and nginx's usual; a change is rarely in a greater hurry, and nobody's DNS server minds.
pub fn resolve_interval() -> Duration {
    Duration::from_secs(10)
}
/// Two questions of a second each: a server that is near answers within milliseconds.
pub fn resolve_timeout() -> Duration {
    Duration::from_secs(2)
}
/// As HAProxy's `hold nx`: longer than a server that forgets a name for a moment, or tells some of its addresses each time.
pub fn resolve_hold() -> Duration {
    Duration::from_secs(30)
}
/// More than most services have, and few enough to be checked twice a second.
pub fn resolve_max_addresses() -> usize {
    64
}
/// Longer than keepalived's check interval and its advert take together.
pub fn drain_delay() -> Duration {
    Duration::from_secs(1)
}
/// A large download over a slow line, or a meeting over WebSocket; as HAProxy users set `hard-stop-after`.
pub fn drain_timeout() -> Duration {
    Duration::from_secs(3600)
}
/// Some tens of megabytes each, and more reloads in an hour than people make.
pub fn max_draining() -> usize {
    8
}
/// A site that has WebSockets has them without a word; as HAProxy's.
pub fn upgrade() -> bool {
    true
}
/// What a page's scripts do.
pub fn cors_methods() -> Vec<String> {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].map(str::to_owned).to_vec()
}
/// Two hours is the most that browsers believe.
pub fn cors_max_age() -> Duration {
    Duration::from_secs(7200)
}
/// As HAProxy's and nginx's.
pub fn weight() -> u32 {
    1
}
/// As HAProxy's: with a bound two requests at a time are not surely of one back end, which is what a hash is for.
pub fn hash_balance_factor() -> u32 {
    0
}
/// None, as HAProxy's and nginx's: most back ends are as quick at once as they ever are.
pub fn slow_start() -> Duration {
    Duration::ZERO
}
/// What is in plain text is read on its way.
pub fn sticky_secure() -> bool {
    true
}
/// No script needs it.
pub fn sticky_http_only() -> bool {
    true
}
/// As Linkerd's.
pub fn ewma_decay() -> Duration {
    Duration::from_secs(10)
}
/// Ample for two round trips on a bad mobile link.
pub fn handshake_timeout() -> Duration {
    Duration::from_secs(5)
}
/// As HAProxy's usual `timeout http-request 10s`.
pub fn header_timeout() -> Duration {
    Duration::from_secs(10)
}
/// Browsers reuse connections for about a minute.
pub fn client_idle_timeout() -> Duration {
    Duration::from_secs(60)
}
/// As HAProxy's usual `timeout client 30s`.
pub fn client_timeout() -> Duration {
    Duration::from_secs(30)
}
/// As HAProxy's usual `timeout tunnel 1h`.
pub fn tunnel_timeout() -> Duration {
    Duration::from_secs(3600)
}
/// Slower than any working link, faster than a drip.
pub fn min_rate() -> ByteSize {
    ByteSize::b(500)
}
/// About 40 KB each with TLS: some 400 MB at the limit.
pub fn max_connections() -> usize {
    10_000
}
/// A large office behind one address, and no more than a fortieth of all.
pub fn max_connections_per_address() -> usize {
    256
}
/// RFC 9113 section 6.5.2 recommends no fewer than 100.
pub fn max_streams() -> u32 {
    100
}
/// As nginx's `large_client_header_buffers 4 8k`.
pub fn max_header_size() -> ByteSize {
    ByteSize::kib(32)
}
/// As HAProxy's `tune.http.maxhdr`, about.
pub fn max_header_fields() -> usize {
    100
}
/// Longer than any download that is still wanted.
pub fn request_timeout() -> Duration {
    Duration::from_secs(3600)
}
/// As long as an upgraded connection may.
pub fn stream_timeout() -> Duration {
    tunnel_timeout()
}
/// RFC 9110 section 4.1 asks for at least 8000 octets.
pub fn max_target_length() -> ByteSize {
    ByteSize::kib(8)
}
/// Larger uploads are rare enough to be asked for.
pub fn max_body_size() -> ByteSize {
    ByteSize::mib(100)
}
/// One year, as the preload list asks.
pub fn hsts_max_age() -> Duration {
    Duration::from_secs(365 * 24 * 3600)
}
/// The nodes share a network: a connect takes well under a millisecond or is lost.
pub fn connect_timeout() -> Duration {
    Duration::from_millis(300)
}
/// As HAProxy's usual `timeout server 30s`.
pub fn response_timeout() -> Duration {
    Duration::from_secs(30)
}
/// Below the web tier's own 60 s, so that the side that opened a connection closes it.
pub fn backend_idle_timeout() -> Duration {
    Duration::from_secs(50)
}
/// With three nodes every back end is tried once.
pub fn retries() -> usize {
    2
}
/// Enough for a few thousand requests a second at usual latencies.
pub fn max_idle_connections() -> usize {
    256
}
/// A WebSocket or a long poll of every client, and as much again beside.
pub fn max_in_flight() -> usize {
    2 * max_connections()
}
/// One web tier may have to carry all clients.
pub fn max_in_flight_per_backend() -> usize {
    max_connections()
}
/// What is worth waiting for, and costs some 10 MB.
pub fn max_queued() -> usize {
    1000
}
/// Visitors wait that long for a page, and hardly longer.
pub fn queue_timeout() -> Duration {
    Duration::from_secs(5)
}
/// A loaded node may take longer to accept than it takes to cross the network.
pub fn database_connect_timeout() -> Duration {
    Duration::from_millis(500)
}
/// Twice what an election takes (6.6 to 7.6 s after a crash), so that an app sees slowness instead of an error.
pub fn wait_for_primary() -> Duration {
    Duration::from_secs(15)
}
/// Readers who have not just written do not mind a few seconds; those who have wait for their own write.
pub fn max_lag() -> Duration {
    Duration::from_secs(5)
}
/// Each costs the member a few milliseconds of a core: a hundred are in within a second, and nobody starves meanwhile.
pub fn max_connecting() -> usize {
    8
}
/// Three apps with full pools are below a hundred.
pub fn database_max_connections() -> usize {
    1000
}
/// As `database_max_connections`; nginx begins with half as many.
pub fn tcp_max_connections() -> usize {
    1000
}
/// One lost SYN is sent again after a second (RFC 6298 section 2.1).
pub fn tcp_connect_timeout() -> Duration {
    Duration::from_secs(3)
}
/// The pool of the web tiers, which every cluster has.
pub fn pool() -> String {
    "web".into()
}
/// Found, for now: browsers keep none of the permanent ones from being wrong for years.
pub fn redirect_status() -> u16 {
    302
}
/// A page like any other.
pub fn answer_status() -> u16 {
    200
}
/// For `robots.txt`, proofs of ownership, and words of one line.
pub fn answer_type() -> String {
    "text/plain; charset=utf-8".into()
}
