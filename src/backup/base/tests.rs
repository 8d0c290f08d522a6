use super::*;

fn seen(name: &str, is_primary: bool) -> Seen {
    let address = "127.0.0.1:3306".parse().expect("address");
    Seen { member: Member { name: name.into(), address }, is_primary }
}

fn order(members: &[(&str, bool)], node: &str) -> Vec<String> {
    let seen = members.iter().map(|(name, is_primary)| seen(name, *is_primary)).collect();
    in_order(seen, node).into_iter().map(|m| m.name).collect()
}

#[test]
fn a_replica_is_copied_and_this_nodes_own_before_others() {
    assert_eq!(order(&[("a", false), ("b", false), ("c", true)], "b"), ["b", "a"]);
}

#[test]
fn the_primary_is_copied_only_when_there_is_no_replica() {
    assert_eq!(order(&[("a", true), ("b", false)], "a"), ["b"]);
    assert_eq!(order(&[("a", true)], "b"), ["a"]);
}
