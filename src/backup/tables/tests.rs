use super::*;

#[test]
fn a_table_is_named_with_its_database() {
    let table: Table = "trivet.comments".parse().unwrap();
    assert_eq!((table.database.as_str(), table.name.as_str()), ("trivet", "comments"));
    for wrong in ["", "comments", ".comments", "trivet."] {
        assert!(wrong.parse::<Table>().unwrap_err().contains("DATABASE.TABLE"), "{wrong}");
    }
}

#[test]
fn the_database_is_named_by_the_moment_and_needs_no_quoting() {
    assert_eq!(database_for("2026-01-02T15:04:05.123Z"), "trivet_restored_20260102t150405");
    let long = database_for(&"6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001:1-5,".repeat(9));
    assert!(long.len() <= 64 && long.starts_with(PREFIX));
}
