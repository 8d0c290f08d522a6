use super::*;

fn order(loads: &[Load], n: usize) -> String {
    let turns = RoundRobin::default();
    (0..n)
        .map(|_| {
            let chosen = turns.choose(&mut loads.iter(), Ask::default()).unwrap();
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
    assert!(RoundRobin::default().choose(&mut [].iter(), Ask::default()).is_none());
}

/// A set of many.
struct Many(Vec<Load>);

impl Members for Many {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn load(&self, at: usize) -> &Load {
        &self.0[at]
    }
}

#[test]
fn of_many_each_gets_its_weight_and_nobody_its_share_all_at_once() {
    // A hundred, of which every tenth has five times as much.
    let weights = (0..100).map(|n| if n % 10 == 0 { 5 } else { 1 });
    let many = Many(weights.clone().map(|weight| Load::new(weight, usize::MAX)).collect());
    let turns = RoundRobin::default();
    let order: Vec<_> = (0..1400).map(|_| turns.choose_of(&many, 1, Ask::default()).unwrap()).collect();
    for (at, weight) in weights.enumerate() {
        let times: Vec<_> = (0..order.len()).filter(|n| order[*n] == at).collect();
        let expected = 10 * weight as usize;
        assert!(times.len().abs_diff(expected) <= 1, "{at}: {} of {expected}", times.len());
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest <= 2 * 140 / weight as usize, "{at} waited for {longest}");
    }
}

#[test]
fn of_many_those_without_room_are_passed_over_and_keep_their_turns() {
    let many = Many((0..50).map(|_| Load::new(1, 1)).collect());
    let turns = RoundRobin::default();
    for n in 0..50 {
        assert_eq!(turns.choose_of(&many, 1, Ask::default()), Some(n));
        assert!(many.0[n].take());
    }
    assert_eq!(turns.choose_of(&many, 1, Ask::default()), None, "all are full");
    many.0[30].put_back();
    assert_eq!(turns.choose_of(&many, 1, Ask::default()), Some(30));
    many.0.iter().enumerate().filter(|(n, _)| *n != 30).for_each(|(_, load)| load.put_back());
    let next: Vec<_> = (0..49).map(|_| turns.choose_of(&many, 1, Ask::default()).unwrap()).collect();
    assert_eq!(next.iter().collect::<std::collections::BTreeSet<_>>().len(), 49, "{next:?}");
    assert!(!next.contains(&30), "it had its turn");
}

#[test]
fn of_many_who_comes_back_has_not_saved_up_its_turns() {
    let many = Many((0..50).map(|_| Load::new(1, usize::MAX)).collect());
    let turns = RoundRobin::default();
    many.0[7].set_weight(0);
    for _ in 0..490 {
        assert_ne!(turns.choose_of(&many, 1, Ask::default()), Some(7));
    }
    many.0[7].set_weight(1);
    let shares = (0..100).filter(|_| turns.choose_of(&many, 2, Ask::default()) == Some(7)).count();
    assert!((1..=3).contains(&shares), "{shares}");
}

#[test]
fn of_many_peak_ewma_takes_the_quicker_one_of_two_by_chance() {
    let many = Many((0..100).map(|_| Load::new(1, usize::MAX)).collect());
    let ewma = PeakEwma::new(Duration::from_secs(10));
    let now = Instant::now();
    for (n, load) in many.0.iter().enumerate() {
        ewma.answered(load, Duration::from_millis(if n < 50 { 1 } else { 100 }), now);
    }
    let slow = (0..2000).filter(|_| ewma.choose_of(&many, 1, Ask::default()).unwrap() >= 50).count();
    // Both of two are slow a quarter of the time.
    assert!((350..650).contains(&slow), "{slow}");
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

const NAMES: [&str; 5] = ["node1", "node2", "node3", "node4", "node5"];

fn named(weights: &[u32]) -> Vec<Load> {
    weights.iter().zip(NAMES).map(|(w, name)| Load::new(*w, usize::MAX).named(name)).collect()
}

/// How often each is chosen of `n` times, when nothing stays in hand.
fn shares(balance: &dyn Balance, loads: &[Load], n: u64) -> Vec<usize> {
    let mut shares = vec![0; loads.len()];
    for hash in 0..n {
        let ask = Ask { further: false, hash: Some(hash_of(&hash.to_le_bytes())) };
        shares[chosen(balance, loads, ask)] += 1;
    }
    shares
}

fn chosen(balance: &dyn Balance, loads: &[Load], ask: Ask) -> usize {
    let chosen = balance.choose(&mut loads.iter(), ask).unwrap();
    loads.iter().position(|l| std::ptr::eq(l, chosen)).unwrap()
}

/// Within six standard deviations of what the weights say: chance fails it once in a hundred million runs.
fn fits(shares: &[usize], weights: &[u32]) {
    let (all, n) = (f64::from(weights.iter().sum::<u32>()), shares.iter().sum::<usize>() as f64);
    for (share, weight) in shares.iter().zip(weights) {
        let part = f64::from(*weight) / all;
        let off = (*share as f64 - n * part).abs();
        assert!(off <= 6.0 * (n * part * (1.0 - part)).sqrt(), "{shares:?} by weights {weights:?}");
    }
}

#[test]
fn chance_keeps_to_the_weights() {
    let weights = [1, 2, 3, 4];
    fits(&shares(&Random, &named(&weights), 20_000), &weights);
}

#[test]
fn a_hash_keeps_to_the_weights_and_to_its_back_end() {
    let (weights, balance) = ([1, 2, 3, 4], Hash::new(0));
    let loads = named(&weights);
    fits(&shares(&balance, &loads, 20_000), &weights);
    for key in 0..100_u64 {
        let ask = Ask { further: false, hash: Some(hash_of(&key.to_le_bytes())) };
        let first = chosen(&balance, &loads, ask);
        assert!((0..5).all(|_| chosen(&balance, &loads, ask) == first));
    }
}

#[test]
fn one_that_comes_or_goes_moves_its_own_requests_and_no_others() {
    let balance = Hash::new(0);
    let (five, four) = (named(&[1; 5]), named(&[1; 4]));
    let mut moved = 0;
    for key in 0..10_000_u64 {
        let ask = Ask { further: false, hash: Some(hash_of(&key.to_le_bytes())) };
        let (with, without) = (chosen(&balance, &five, ask), chosen(&balance, &four, ask));
        if with != without {
            assert_eq!(with, 4, "it was the fifth's, or stays where it was");
            moved += 1;
        }
    }
    fits(&[moved, 10_000 - moved], &[1, 4]);
}

#[test]
fn a_hash_that_everybody_has_fills_one_back_end_to_its_bound_and_then_the_next() {
    let (balance, loads) = (Hash::new(150), named(&[1; 4]));
    let ask = Ask { further: false, hash: Some(hash_of(b"/popular")) };
    for _ in 0..400 {
        assert!(loads[chosen(&balance, &loads, ask)].take());
    }
    let in_flight: Vec<usize> = loads.iter().map(Load::in_flight).collect();
    // Half above its share of a hundred at most, with the last one on its way.
    assert!(in_flight.iter().all(|n| *n <= 151), "{in_flight:?}");
    assert!(in_flight.iter().filter(|n| **n >= 145).count() == 2, "{in_flight:?}");
}

#[test]
fn without_a_hash_it_goes_in_turn() {
    let (balance, loads) = (Hash::new(0), named(&[1; 3]));
    let turns: Vec<usize> = (0..6).map(|_| chosen(&balance, &loads, Ask::default())).collect();
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn the_one_with_the_fewest_requests_for_its_weight_is_next() {
    let (balance, loads) = (LeastRequests::default(), named(&[1, 1, 2]));
    let take = |n: usize| -> String {
        let next = |_| {
            let at = chosen(&balance, &loads, Ask::default());
            assert!(loads[at].take());
            char::from(b'a' + u8::try_from(at).unwrap())
        };
        (0..n).map(next).collect()
    };
    let order = take(8);
    assert_eq!((order.matches('a').count(), order.matches('c').count()), (2, 4), "{order}");
    for _ in 0..2 {
        loads[1].put_back();
    }
    assert_eq!(take(2), "bb", "whoever is done gets the next");
    // Where nothing stays in hand, each in turn.
    let (balance, loads) = (LeastRequests::default(), named(&[1; 3]));
    let turns: Vec<usize> = (0..6).map(|_| chosen(&balance, &loads, Ask::default())).collect();
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn of_two_the_one_that_answers_sooner_is_next_and_what_was_slow_is_forgotten() {
    let (balance, loads) = (PeakEwma::new(Duration::from_secs(10)), named(&[1; 3]));
    let answer = |took: [u64; 3]| {
        for (load, took) in loads.iter().zip(took) {
            balance.answered(load, Duration::from_millis(took), Instant::now());
        }
    };
    answer([10, 10, 10]);
    fits(&shares(&balance, &loads, 3000), &[1; 3]);
    answer([10, 10, 900]);
    // It loses each comparison, and there is always one.
    let shares_now = shares(&balance, &loads, 3000);
    assert_eq!(shares_now[2], 0, "{shares_now:?}");
    // It has answered nobody since, and what it was is worth less and less.
    tokio::time::advance(Duration::from_secs(90)).await;
    answer([11, 11, 10]);
    tokio::time::advance(Duration::from_millis(1)).await;
    let shares_then = shares(&balance, &loads, 3000);
    assert!(shares_then[2] > 500, "{shares_then:?}");
    // One that fails at once is no quick one.
    balance.failed(&loads[1], Instant::now());
    assert_eq!(shares(&balance, &loads, 3000)[1], 0);
    tokio::time::advance(Duration::from_secs(90)).await;
    answer([10, 10, 10]);
    // What it has in hand counts.
    for _ in 0..3 {
        assert!(loads[0].take());
    }
    assert_eq!(shares(&balance, &loads, 3000)[0], 0);
}

/// Each algorithm that reckons with a slow start.
fn with_slow_start() -> [(&'static str, Box<dyn Balance>); 4] {
    [
        ("round robin", Box::new(RoundRobin::default())),
        ("least requests", Box::new(LeastRequests::default())),
        ("random", Box::new(Random)),
        ("peak EWMA", Box::new(PeakEwma::new(Duration::from_secs(10)))),
    ]
}

#[tokio::test(start_paused = true)]
async fn one_that_has_come_back_gets_a_tenth_at_first_and_ever_more_until_it_has_its_share() {
    for (name, balance) in with_slow_start() {
        let loads = named(&[1; 3]);
        loads[2].start_slowly(Duration::from_secs(30));
        // Of 3000, when nothing stays in hand: a tenth among two wholes, about half, and a third.
        for (second, expected) in [(0, 143), (15, 647), (15, 1000)] {
            tokio::time::advance(Duration::from_secs(second)).await;
            let got = shares(&*balance, &loads, 3000)[2];
            // Peak EWMA's comparisons are fewer, and not quite proportional.
            assert!(got.abs_diff(expected) < 190, "{name}: {got} instead of {expected}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_has_come_back_is_spared_among_the_busy_and_serves_when_nobody_else_does() {
    let (balance, loads) = (LeastRequests::default(), named(&[1; 3]));
    loads[2].start_slowly(Duration::from_secs(30));
    for _ in 0..21 {
        assert!(loads[chosen(&balance, &loads, Ask::default())].take());
    }
    let in_flight: Vec<usize> = loads.iter().map(Load::in_flight).collect();
    assert_eq!(in_flight, [10, 10, 1]);
    for (name, balance) in with_slow_start() {
        let alone = named(&[1]);
        alone[0].start_slowly(Duration::from_secs(30));
        assert!((0..50).all(|_| chosen(&*balance, &alone, Ask::default()) == 0), "{name}");
    }
}

#[test]
fn one_that_was_away_has_not_saved_up_its_turns() {
    let (balance, loads) = (LeastRequests::default(), named(&[1; 3]));
    for _ in 0..100 {
        chosen(&balance, &loads[..2], Ask::default());
    }
    assert_eq!(shares(&balance, &loads, 30), [10, 10, 10]);
}
