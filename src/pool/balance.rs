//! Which of several back ends of equal standing takes the next request.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::time::Instant;

/// What an algorithm knows about a back end.
#[derive(Debug)]
pub struct Load {
    weight: AtomicU32,
    in_flight: AtomicUsize,
    most: usize,
    /// For [`RoundRobin`]: what it is owed, in requests times the share of all.
    owed: AtomicI64,
    /// For [`LeastRequests`]: from when on it is its turn.
    turn: AtomicU64,
    /// For [`PeakEwma`].
    latency: Latency,
    /// Its name's number.
    seed: u64,
    slow_start: SlowStart,
}

impl Load {
    /// Of a back end that may have `most` requests in flight.
    pub fn new(weight: u32, most: usize) -> Self {
        Self {
            weight: weight.into(),
            in_flight: AtomicUsize::new(0),
            most,
            owed: AtomicI64::new(0),
            turn: AtomicU64::new(0),
            latency: Latency::default(),
            seed: 0,
            slow_start: SlowStart::new(),
        }
    }

    /// The same, with the name of whose it is.
    pub fn named(mut self, name: &str) -> Self {
        self.seed = hash_of(name.as_bytes());
        self
    }

    /// Its name's number; 0 without a name.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// How much it wants a hash: of several the one that wants it most has it, the more often the greater its weight.
    fn score(&self, hash: u64) -> f64 {
        // From above 0 to 1.
        let chance = ((mixed(hash ^ self.seed) >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        f64::from(self.weight()) / -chance.ln().min(-f64::MIN_POSITIVE)
    }

    /// Its share in comparison with the others'.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(super) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// Its weight times 1000, or less of it during a slow start.
    pub fn share(&self) -> u64 {
        u64::from(self.weight()) * u64::from(self.slow_start.permille())
    }

    /// Has its share grow from a tenth of its weight to the whole over this time.
    pub(super) fn start_slowly(&self, over: Duration) {
        self.slow_start.begin(over);
    }

    /// Requests, or connections, that it has in hand.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Whether it may have one more.
    pub fn has_room(&self) -> bool {
        self.in_flight() < self.most
    }

    /// Counts one more, if there is room.
    pub(super) fn take(&self) -> bool {
        let more = |n| (n < self.most).then_some(n + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Counts one less.
    pub(super) fn put_back(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What an algorithm knows about a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ask {
    /// Another back end was tried for it. It takes nobody's turn: where every request to a broken back end took two, the next one
    /// would begin at the same back end again.
    pub further: bool,
    /// Requests of the same number go to the same back end, where the algorithm looks at it.
    pub hash: Option<u64>,
}

/// Those of which one is chosen.
pub trait Members {
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// `at` is below [`len`](Self::len).
    fn load(&self, at: usize) -> &Load;
}

/// One of those that have room, as `choose` says.
fn look_through<'a>(
    members: &'a dyn Members,
    choose: impl FnOnce(&mut dyn Iterator<Item = &'a Load>) -> Option<&'a Load>,
) -> Option<usize> {
    let mut candidates = (0..members.len()).map(|at| members.load(at)).filter(|load| load.has_room());
    let chosen = choose(&mut candidates)?;
    (0..members.len()).find(|at| std::ptr::eq(members.load(*at), chosen))
}

/// An algorithm. Health, tiers and room are looked at before it.
pub trait Balance: Send + Sync {
    /// The one of `candidates` that takes the next request; none when there are none.
    fn choose<'a>(&self, candidates: &mut dyn Iterator<Item = &'a Load>, ask: Ask) -> Option<&'a Load>;

    /// As [`choose`](Self::choose), of `members`, in whose hands is what makes it quick: there may be hundreds. Those without room are
    /// left out. `version` is another number for every other set of them.
    fn choose_of(&self, members: &dyn Members, version: u64, ask: Ask) -> Option<usize> {
        let _ = version;
        look_through(members, |candidates| self.choose(candidates, ask))
    }

    /// The head of an answer came `took` after its request.
    fn answered(&self, _load: &Load, _took: Duration, _now: Instant) {}

    /// A request came to nothing, which is no quick answer.
    fn failed(&self, _load: &Load, _now: Instant) {}
}

/// In turn, by weight, and as evenly as can be: of weights 5, 1 and 1 the order is a a b a c a a (nginx's smooth weighted round
/// robin, upstream module). That looks at all of them; of more than [`FEW`] the one whose turn comes first is kept in a heap, and takes its
/// next turn the sooner the greater its share (stride scheduling, Waldspurger and Weihl), which is as even and looks at a few.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: Mutex<Turns>,
}

/// Back ends that are looked at one by one.
const FEW: usize = 32;

/// Whose turn it is among many.
#[derive(Debug, Default)]
struct Turns {
    version: u64,
    /// By the time of its turn, and its number.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    now: u64,
}

impl Turns {
    /// Those of another set take the turns that they had. Those that had none, or whose turn was while they were away, begin one after the
    /// other, each within the time in which it has one.
    fn are_of(&mut self, members: &dyn Members, version: u64) {
        if self.version == version && self.next.len() == members.len() {
            return;
        }
        let turn = |at: usize| {
            let (load, all) = (members.load(at), members.len() as u64 + 1);
            let had = load.turn.load(Ordering::Relaxed);
            let own = STRIDE / load.share().max(1);
            if had > 0 && had >= self.now { had } else { self.now + own / all * (at as u64 + 1) }
        };
        self.next = (0..members.len()).map(|at| Reverse((turn(at), at))).collect();
        self.version = version;
    }

    /// The first that has room.
    fn take(&mut self, members: &dyn Members) -> Option<usize> {
        let mut passed_over = Vec::new();
        let mut chosen = None;
        while let Some(Reverse((turn, at))) = self.next.pop() {
            let load = members.load(at);
            let share = load.share();
            if share == 0 || !load.has_room() {
                passed_over.push(Reverse((turn, at)));
                continue;
            }
            // One that had no room has not saved up its turns.
            self.now = self.now.max(turn);
            let next = self.now + STRIDE / share;
            load.turn.store(next, Ordering::Relaxed);
            self.next.push(Reverse((next, at)));
            chosen = Some(at);
            break;
        }
        self.next.extend(passed_over);
        chosen
    }
}

impl Balance for RoundRobin {
    fn choose_of(&self, members: &dyn Members, version: u64, ask: Ask) -> Option<usize> {
        if members.len() > FEW {
            let mut turns = self.turn.lock();
            turns.are_of(members, version);
            return turns.take(members);
        }
        look_through(members, |candidates| self.choose(candidates, ask))
    }

    fn choose<'a>(&self, candidates: &mut dyn Iterator<Item = &'a Load>, ask: Ask) -> Option<&'a Load> {
        let _turn = self.turn.lock();
        // Of many nobody is owed anything, and the one whose turn comes first is as good as any.
        let turn = |load: &Load| load.turn.load(Ordering::Relaxed);
        let (mut all, mut best): (i64, Option<(i64, &Load)>) = (0, None);
        for load in candidates {
            let weight = i64::try_from(load.share()).unwrap_or(i64::MAX);
            let owed = load.owed.load(Ordering::Relaxed) + weight;
            all += weight;
            if !ask.further {
                load.owed.store(owed, Ordering::Relaxed);
            }
            if best.is_none_or(|(most, b)| owed > most || (owed == most && turn(load) < turn(b))) {
                best = Some((owed, load));
            }
        }
        let (owed, chosen) = best?;
        if !ask.further {
            chosen.owed.store(owed - all, Ordering::Relaxed);
        }
        Some(chosen)
    }
}

/// The one that has the fewest in hand for its weight; several of which there are in turn, by weight (nginx's `least_conn`). For
/// requests that take very different times.
#[derive(Debug, Default)]
pub struct LeastRequests {
    /// The time of the turns: each request takes its back end [`STRIDE`] divided by its share (start-time fair queueing, Goyal, Vin and
    /// Cheng).
    now: AtomicU64,
}

/// As much as a back end of weight 1 takes, times its share: whole numbers, and room for 10^13 requests.
const STRIDE: u64 = 1_000_000_000;

impl Balance for LeastRequests {
    fn choose<'a>(&self, candidates: &mut dyn Iterator<Item = &'a Load>, _: Ask) -> Option<&'a Load> {
        let now = self.now.load(Ordering::Relaxed);
        // Whoever was away has not saved up its turns.
        let turn = |load: &Load| load.turn.load(Ordering::Relaxed).max(now);
        // Fractions, compared crosswise.
        let chosen = candidates.min_by(|a, b| {
            let part = |one: &Load, other: &Load| one.in_flight() as u128 * u128::from(other.share());
            part(a, b).cmp(&part(b, a)).then_with(|| turn(a).cmp(&turn(b)))
        })?;
        let turn = turn(chosen);
        self.now.store(turn, Ordering::Relaxed);
        chosen.turn.store(turn + STRIDE / chosen.share().max(1), Ordering::Relaxed);
        Some(chosen)
    }
}

/// By chance, by weight.
#[derive(Debug, Default)]
pub struct Random;

impl Balance for Random {
    fn choose<'a>(&self, candidates: &mut dyn Iterator<Item = &'a Load>, _: Ask) -> Option<&'a Load> {
        let (mut rng, mut all, mut chosen) = (rand::rng(), 0_u64, None);
        // Each takes the place of those before it as often as its weight is of the sum so far.
        for load in candidates {
            let weight = load.share();
            all += weight;
            if rng.random_range(0..all.max(1)) < weight {
                chosen = Some(load);
            }
        }
        chosen
    }
}

/// Of two by chance the one that is expected to answer sooner: by how long its answers took of late, and what it has in hand. A slow
/// answer counts at once, and is forgotten over `decay` ("peak EWMA", of Finagle and Linkerd). Two, and not all, lest every balancer
/// send to the same one.
#[derive(Debug)]
pub struct PeakEwma {
    decay: Duration,
    began: Instant,
}

impl PeakEwma {
    /// What was is worth a third after `decay`.
    pub fn new(decay: Duration) -> Self {
        Self { decay, began: Instant::now() }
    }

    /// Which of two; of equals either.
    fn is_better(&self, first: &Load, second: &Load) -> bool {
        let now = Instant::now();
        let (a, b) = (self.cost(first, now), self.cost(second, now));
        if a == b { rand::rng().random() } else { a < b }
    }

    /// What is expected of it, in microseconds times requests.
    fn cost(&self, load: &Load, now: Instant) -> f64 {
        let (took, since) = load.latency.load();
        let age = now.saturating_duration_since(self.began).saturating_sub(Duration::from_micros(since));
        let usual = f64::from(took) * (-age.as_secs_f64() / self.decay.as_secs_f64()).exp();
        // One that has answered nobody yet gets one request, and is judged by its answer.
        let usual = if took == 0 && load.in_flight() > 0 { UNKNOWN } else { usual };
        (usual + 1.0) * (load.in_flight() as f64 + 1.0) / f64::from(load.weight().max(1))
    }
}

/// As one whose answers take a second, in microseconds.
const UNKNOWN: f64 = 1e6;

/// How often two are looked for by chance before all are looked at.
const DRAWS: usize = 8;

impl Balance for PeakEwma {
    fn choose_of(&self, members: &dyn Members, _: u64, ask: Ask) -> Option<usize> {
        let mut rng = rand::rng();
        let mut first = None;
        for _ in 0..if members.len() > FEW { DRAWS } else { 0 } {
            let at = rng.random_range(0..members.len());
            let load = members.load(at);
            let starts_slowly = rng.random_range(0..SlowStart::WHOLE) >= load.slow_start.permille();
            if starts_slowly || !load.has_room() {
                continue;
            }
            match first {
                None => first = Some(at),
                Some(first) if first != at => {
                    return Some(if self.is_better(members.load(first), load) { first } else { at });
                }
                Some(_) => {}
            }
        }
        look_through(members, |candidates| self.choose(candidates, ask))
    }

    fn choose<'a>(&self, candidates: &mut dyn Iterator<Item = &'a Load>, _: Ask) -> Option<&'a Load> {
        let mut rng = rand::rng();
        let mut two: [Option<&Load>; 2] = [None, None];
        let (mut n, mut spare) = (0, None);
        for load in candidates {
            // A comparison knows no shares: one that starts slowly takes part in fewer of them.
            let permille = load.slow_start.permille();
            if permille < SlowStart::WHOLE && rng.random_range(0..SlowStart::WHOLE) >= permille {
                spare = Some(load);
                continue;
            }
            let place = if n < 2 { n } else { rng.random_range(0..=n) };
            if let Some(place) = two.get_mut(place) {
                *place = Some(load);
            }
            n += 1;
        }
        let [first, second] = two;
        let Some((first, second)) = first.zip(second) else { return first.or(spare) };
        Some(if self.is_better(first, second) { first } else { second })
    }

    fn answered(&self, load: &Load, took: Duration, now: Instant) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let at = u64::try_from(now.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX);
        let (before, since) = load.latency.load();
        let part =
            (-Duration::from_micros(at.saturating_sub(since)).as_secs_f64() / self.decay.as_secs_f64()).exp();
        let usual = f64::from(before) * part + f64::from(took) * (1.0 - part);
        let new = if took > before { took } else { (usual as u32).max(1) };
        load.latency.store(new, at);
    }

    fn failed(&self, load: &Load, now: Instant) {
        self.answered(load, Duration::from_micros(UNKNOWN as u64), now);
    }
}

/// The same back end for the same hash, as long as it is there: rendezvous hashing (highest random weight, Thaler and Ravishankar), by
/// weight. A back end that comes or goes moves the requests that are its own, and no others. None has more in hand than `factor`
/// percent of its share of all (bounded load, as HAProxy's `hash-balance-factor`); what is beyond goes to the next in its own order.
/// What has no hash goes in turn.
#[derive(Debug)]
pub struct Hash {
    factor: u32,
    without: RoundRobin,
}

impl Hash {
    /// With a bound of `factor` percent; 0 is none.
    pub fn new(factor: u32) -> Self {
        Self { factor, without: RoundRobin::default() }
    }
}

impl Balance for Hash {
    fn choose<'a>(&self, candidates: &mut dyn Iterator<Item = &'a Load>, ask: Ask) -> Option<&'a Load> {
        let Some(hash) = ask.hash else { return self.without.choose(candidates, ask) };
        let all: Vec<&Load> = candidates.collect();
        let weights: u64 = all.iter().map(|l| u64::from(l.weight())).sum();
        let in_flight: u64 = all.iter().map(|l| l.in_flight() as u64).sum::<u64>() + 1;
        let has_room = |load: &Load| {
            let share = in_flight * u64::from(load.weight()) * u64::from(self.factor);
            self.factor == 0 || load.in_flight() as u64 * 100 * weights.max(1) < share
        };
        let best = |some: &mut dyn Iterator<Item = &&'a Load>| {
            some.max_by(|a, b| a.score(hash).total_cmp(&b.score(hash))).copied()
        };
        best(&mut all.iter().filter(|l| has_room(l))).or_else(|| best(&mut all.iter()))
    }
}

/// Microseconds, and when they were noted, in microseconds: both of the same moment, or of two that are close.
#[derive(Debug, Default)]
struct Latency {
    took: AtomicU32,
    at: AtomicU64,
}

impl Latency {
    fn load(&self) -> (u32, u64) {
        (self.took.load(Ordering::Relaxed), self.at.load(Ordering::Relaxed))
    }

    fn store(&self, took: u32, at: u64) {
        self.took.store(took, Ordering::Relaxed);
        self.at.store(at, Ordering::Relaxed);
    }
}

/// The time after a back end has come back, in which it gets less than its share (HAProxy's `slowstart`).
#[derive(Debug)]
struct SlowStart {
    created: Instant,
    /// In microseconds since `created`, and one more; 0 is none.
    began: AtomicU64,
    /// In microseconds.
    over: AtomicU64,
}

impl SlowStart {
    const WHOLE: u32 = 1000;
    /// Enough to warm up by, and little enough to be late with.
    const FIRST: u32 = Self::WHOLE / 10;

    fn new() -> Self {
        Self { created: Instant::now(), began: AtomicU64::new(0), over: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn begin(&self, over: Duration) {
        let over = u64::try_from(over.as_micros()).unwrap_or(u64::MAX);
        self.over.store(over, Ordering::Relaxed);
        self.began.store(if over == 0 { 0 } else { self.now() }, Ordering::Release);
    }

    /// From 100 to 1000.
    fn permille(&self) -> u32 {
        let began = self.began.load(Ordering::Acquire);
        if began == 0 {
            return Self::WHOLE;
        }
        let (since, over) = (self.now().saturating_sub(began), self.over.load(Ordering::Relaxed));
        if since >= over {
            // Whoever begins anew meanwhile is not undone.
            let _ = self.began.compare_exchange(began, 0, Ordering::Relaxed, Ordering::Relaxed);
            return Self::WHOLE;
        }
        // Below `over`, so the quotient is below what is still to come.
        let to_come = u128::from(Self::WHOLE - Self::FIRST);
        Self::FIRST + (u128::from(since) * to_come / u128::from(over)) as u32
    }
}

/// Mixes all bits of a number into all bits of another (the finalizer of splitmix64, Steele, Lea and Flood 2014).
fn mixed(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The same number for the same octets, in every process and version (FNV-1a, 64 bits, and mixed).
pub fn hash_of(octets: &[u8]) -> u64 {
    let fnv = octets
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |n: u64, b| (n ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    mixed(fnv)
}

/// Likewise for the same client; an IPv4 address that is mapped into IPv6 is that of IPv4.
pub fn hash_of_client(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(four) => hash_of(&four.octets()),
        IpAddr::V6(six) => hash_of(&six.octets()),
    }
}

#[cfg(test)]
mod tests;
