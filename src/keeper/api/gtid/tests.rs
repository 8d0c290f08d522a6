use super::*;

const A: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";
const B: &str = "d5a31a07-e6ac-11f1-98cd-5eac5ad0ff61";

fn set(text: &str) -> GtidSet {
    text.replace("A", A).replace("B", B).parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn text(set: &GtidSet) -> String {
    set.to_string().replace(A, "A").replace(B, "B")
}

#[test]
fn text_is_read_and_written_in_canonical_form() {
    for (given, canonical) in [
        ("", ""),
        ("A:1", "A:1"),
        ("A:1-5", "A:1-5"),
        ("A:1-5:6-9:20", "A:1-9:20"),
        ("A:20:1-5:3-9", "A:1-9:20"),
        ("A:1-3,\nB:1-2", "A:1-3,B:1-2"),
        ("A:1-3,A:4-5", "A:1-5"),
        ("A:1-3:blue:1-2:5", "A:1-3:blue:1-2:5"),
        ("A:blue:1-2,A:1,B:7", "A:1:blue:1-2,B:7"),
        ("A:1-3,", "A:1-3"),
    ] {
        assert_eq!(text(&set(given)), canonical, "{given}");
        assert_eq!(set(&text(&set(given))), set(given), "{given} survives a round trip");
    }
    assert_eq!(A.to_ascii_uppercase().replace("A", "a").len(), 36);
    assert!(
        format!("{}:1", A.to_ascii_uppercase()).parse::<GtidSet>().unwrap().has_uuid(A),
        "UUIDs ignore case"
    );
}

#[test]
fn other_text_is_refused() {
    for bad in [
        "x",
        ":1",
        "A",
        "A:",
        "A:0",
        "A:5-3",
        "A:1-",
        "A:-1",
        "A:1:b-c:1",
        "A:blue",
        "A:9223372036854775807",
        "A:1 B:2",
    ] {
        let given = bad.replace("A", A).replace("B", B);
        assert!(given.parse::<GtidSet>().is_err(), "{bad}");
    }
}

#[test]
fn union_subtract_and_subset() {
    // a, b, a∪b, a−b
    for (a, b, union, minus) in [
        ("", "", "", ""),
        ("A:1-5", "", "A:1-5", "A:1-5"),
        ("", "A:1-5", "A:1-5", ""),
        ("A:1-5", "A:1-5", "A:1-5", ""),
        ("A:1-5", "A:6-9", "A:1-9", "A:1-5"),
        ("A:1-9", "A:4-6", "A:1-9", "A:1-3:7-9"),
        ("A:1-9", "A:1:3:5:7:9", "A:1-9", "A:2:4:6:8"),
        ("A:1-3:7-9", "A:2-8", "A:1-9", "A:1:9"),
        ("A:1-3:1000010-1000030", "A:1-3:1000010-1000020", "A:1-3:1000010-1000030", "A:1000021-1000030"),
        ("A:1-5,B:1", "A:1-9", "A:1-9,B:1", "B:1"),
        ("A:1-5:blue:1", "A:1-9", "A:1-9:blue:1", "A:blue:1"),
    ] {
        let (a_set, b_set) = (set(a), set(b));
        assert_eq!(text(&a_set.union(&b_set)), union, "{a} ∪ {b}");
        assert_eq!(a_set.union(&b_set), b_set.union(&a_set), "{a} ∪ {b} commutes");
        assert_eq!(text(&a_set.subtract(&b_set)), minus, "{a} − {b}");
        assert_eq!(a_set.is_subset(&b_set), minus.is_empty(), "{a} ⊆ {b}");
    }
}

#[test]
fn arithmetic_agrees_with_counting_one_by_one() {
    // Every pair of subsets of 1..=6, against plain sets of numbers.
    let make = |bits: u32| -> GtidSet {
        let numbers: Vec<String> =
            (1..=6).filter(|n| bits & (1 << n) != 0).map(|n| format!(":{n}")).collect();
        if numbers.is_empty() { GtidSet::default() } else { set(&format!("A{}", numbers.concat())) }
    };
    for a in 0..64u32 {
        for b in 0..64u32 {
            let (a, b) = (a << 1, b << 1);
            assert_eq!(make(a).union(&make(b)), make(a | b));
            assert_eq!(make(a).subtract(&make(b)), make(a & !b));
            assert_eq!(make(a).is_subset(&make(b)), a & !b == 0);
            assert_eq!(make(a).count(), u64::from(a.count_ones()));
        }
    }
}

#[test]
fn transactions_of_other_uuids() {
    for (given, others) in [("", ""), ("A:1-3", ""), ("B:1-3", "B:1-3"), ("A:1-3:blue:4,B:1", "B:1")] {
        assert_eq!(text(&set(given).without_uuid(A)), others, "{given}");
    }
}

#[test]
fn transactions_come_one_by_one_and_in_any_order() {
    let uuid = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";
    let mut seed = 7u64;
    let mut numbers: Vec<u64> = (1..=40).chain(50..=60).collect();
    for i in (1..numbers.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        numbers.swap(i, (seed >> 33) as usize % (i + 1));
    }
    let mut set = GtidSet::default();
    for (done, number) in numbers.iter().enumerate() {
        assert!(!set.contains(uuid, "", *number));
        set.insert(uuid, "", *number);
        set.insert(uuid, "", *number);
        assert!(set.contains(uuid, "", *number));
        assert_eq!(set.count(), done as u64 + 1);
    }
    set.insert(uuid, "nightly", 1);
    assert_eq!(set.to_string(), format!("{uuid}:1-40:50-60:nightly:1"));
    assert!(!set.contains(uuid, "nightly", 2));
}
