//! Which of several back ends of equal standing takes the next request.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// What an algorithm knows about a back end.
#[derive(Debug)]
pub struct Load {
    weight: AtomicU32,
    in_flight: AtomicUsize,
    most: usize,
    /// For [`RoundRobin`]: what it is owed, in requests times the weight of all.
    owed: AtomicI64,
}

impl Load {
    /// Of a back end that may have `most` requests in flight.
    pub fn new(weight: u32, most: usize) -> Self {
        Self { weight: weight.into(), in_flight: AtomicUsize::new(0), most, owed: AtomicI64::new(0) }
    }

    /// Its share in comparison with the others'.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(super) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
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

/// An algorithm. Health, tiers and room are looked at before it.
pub trait Balance: Send + Sync {
    /// The one of `candidates` that takes the next request; none when there are none. A `further` attempt of a request takes
    /// nobody's turn: where every request to a broken back end took two, the next one would begin at the same back end
    /// again.
    fn choose<'a>(&self, candidates: &mut dyn Iterator<Item = &'a Load>, further: bool) -> Option<&'a Load>;
}

/// In turn, by weight, and as evenly as can be: of weights 5, 1 and 1 the order is a a b a c a a (nginx's smooth weighted round
/// robin, upstream module).
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: Mutex<()>,
}

impl Balance for RoundRobin {
    fn choose<'a>(&self, candidates: &mut dyn Iterator<Item = &'a Load>, further: bool) -> Option<&'a Load> {
        let _turn = self.turn.lock();
        let (mut all, mut best): (i64, Option<(i64, &Load)>) = (0, None);
        for load in candidates {
            let weight = i64::from(load.weight());
            let owed = load.owed.load(Ordering::Relaxed) + weight;
            all += weight;
            if !further {
                load.owed.store(owed, Ordering::Relaxed);
            }
            if best.is_none_or(|(most, _)| owed > most) {
                best = Some((owed, load));
            }
        }
        let (owed, chosen) = best?;
        if !further {
            chosen.owed.store(owed - all, Ordering::Relaxed);
        }
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(loads: &[Load], n: usize) -> String {
        let turns = RoundRobin::default();
        (0..n)
            .map(|_| {
                let chosen = turns.choose(&mut loads.iter(), false).unwrap();
                let at = loads.iter().position(|l| std::ptr::eq(l, chosen)).unwrap();
                char::from(b'a' + u8::try_from(at).unwrap())
            })
            .collect()
    }

    #[test]
    fn weights_are_kept_and_nobody_gets_its_share_all_at_once() {
        let loads = [5, 1, 1].map(|weight| Load::new(weight, usize::MAX));
        assert_eq!(order(&loads, 14), "aabacaaaabacaa");
        let loads = [1, 1, 1].map(|weight| Load::new(weight, usize::MAX));
        assert_eq!(order(&loads, 6), "abcabc");
        assert!(RoundRobin::default().choose(&mut [].iter(), false).is_none());
    }

    #[test]
    fn a_change_of_weight_counts_from_the_next_turn_on() {
        let loads = [1, 1].map(|weight| Load::new(weight, usize::MAX));
        assert_eq!(order(&loads, 4), "abab");
        loads[1].set_weight(3);
        let turns = order(&loads, 40);
        assert_eq!(turns.matches('b').count(), 30, "{turns}");
    }

    #[test]
    fn there_is_room_until_as_many_are_taken_as_may_be() {
        let load = Load::new(1, 2);
        assert!(load.take() && load.take() && !load.take());
        assert!(!load.has_room());
        load.put_back();
        assert!(load.has_room() && load.take());
        assert_eq!(load.in_flight(), 2);
    }
}
