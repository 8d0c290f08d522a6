use super::*;
use crate::report::Role;
use serde_json::json;

const GROUP: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";

fn seen(state: &str, majority: bool, gtids: &str, view: &[(&str, &str)]) -> Observation {
    let view: Vec<_> = view
        .iter()
        .map(|(name, state)| json!({"name": name, "address": "x:1", "uuid": name, "state": state, "role": "SECONDARY"}))
        .collect();
    serde_json::from_value(json!({
        "server_uuid": "u", "server_version": "9.7.4", "member_state": state, "role": Role::Secondary.as_str(),
        "primary": null, "view_id": "1:1", "majority": majority, "view": view, "gtid_executed": gtids,
        "gtid_received": "", "gtid_purged": "", "lag_seconds": 0.0, "super_read_only": true, "user_schemas": [],
        "mysql_group_name": GROUP, "clone_plugin": true, "start_on_boot": false, "bootstrap_group": false,
        "clone": null, "last_error": null
    }))
    .unwrap()
}

#[tokio::test]
async fn a_group_is_formed_once_it_has_made_a_transaction() {
    let d = tempfile::tempdir().unwrap();
    let mut file = RecordFile::open(&d.path().join("state"), GROUP).unwrap();
    assert_eq!(file.record(), &Record { group_name: GROUP.into(), ..Record::default() });

    assert!(file.note(&seen("ONLINE", true, "", &[("node1", "ONLINE")])).await.unwrap());
    assert!(!file.record().formed, "no transaction, nothing to lose");

    let online = seen(
        "ONLINE",
        true,
        &format!("{GROUP}:1"),
        &[("node2", "ONLINE"), ("node1", "ONLINE"), ("node3", "RECOVERING")],
    );
    assert!(file.note(&online).await.unwrap());
    assert!(!file.note(&online).await.unwrap(), "written only when it changes");
    let again = RecordFile::open(&d.path().join("state"), GROUP).unwrap();
    assert!(again.record().formed);
    assert_eq!(
        again.record().last_view,
        ["node1", "node2"],
        "a recovering member has not been in the group yet"
    );
}

#[tokio::test]
async fn only_a_healthy_view_is_worth_remembering() {
    let d = tempfile::tempdir().unwrap();
    let mut file = RecordFile::open(d.path(), GROUP).unwrap();
    for (state, majority) in [("ONLINE", false), ("RECOVERING", true), ("ERROR", false), ("OFFLINE", false)] {
        let view = [("node1", "ONLINE"), ("node2", "UNREACHABLE")];
        assert!(
            !file.note(&seen(state, majority, &format!("{GROUP}:1"), &view)).await.unwrap(),
            "{state} {majority}"
        );
    }
}

#[test]
fn a_record_that_cannot_be_trusted_stops_the_keeper() {
    let d = tempfile::tempdir().unwrap();
    std::fs::write(d.path().join("group.json"), "{").unwrap();
    assert!(RecordFile::open(d.path(), GROUP).unwrap_err().contains("damaged"));
    std::fs::write(d.path().join("group.json"), r#"{"group_name":"other","formed":true,"last_view":[]}"#)
        .unwrap();
    assert!(RecordFile::open(d.path(), GROUP).unwrap_err().contains("is about group other"));
    let file = d.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(RecordFile::open(&file, GROUP).unwrap_err().contains("cannot be made"));
}

#[tokio::test]
async fn bootstraps_by_force_are_remembered_learnt_and_undone() {
    let d = tempfile::tempdir().unwrap();
    let set = |text: &str| -> GtidSet { format!("{GROUP}:{text}").parse().unwrap() };
    let mut file = RecordFile::open(d.path(), GROUP).unwrap();
    assert!(file.adopt_forks(&[set("1-9")]).await.unwrap());
    assert!(!file.adopt_forks(&[set("1-5")]).await.unwrap(), "what is known is not replaced by as much");
    let before = file.fork(&[set("1-9")], set("1-20")).await.unwrap();
    assert_eq!(RecordFile::open(d.path(), GROUP).unwrap().record().forks, [set("1-9"), set("1-20")]);
    assert_eq!(file.record().unmarked, Some(2));
    file.take_back(before).await.unwrap();
    let again = RecordFile::open(d.path(), GROUP).unwrap();
    assert_eq!((&again.record().forks[..], again.record().unmarked), (&[set("1-9")][..], None));
    file.fork(&[set("1-9")], set("1-20")).await.unwrap();
    file.marked().await.unwrap();
    let again = RecordFile::open(d.path(), GROUP).unwrap();
    assert_eq!((again.record().forks.len(), again.record().unmarked), (2, None));

    // Beyond any bootstrap that it was not part of, a member's transactions are given up.
    let forks = [set("1-9"), set("1-20")];
    let record = |known: &[GtidSet]| Record { forks: known.to_vec(), ..Record::default() };
    assert_eq!(record(&[]).given_up(&set("1-12"), &forks), set("10-12"));
    assert_eq!(record(&forks[..1]).given_up(&set("1-12"), &forks), GtidSet::default());
    assert_eq!(record(&forks[..1]).given_up(&set("1-22"), &forks), set("21-22"));
    assert_eq!(record(&forks).given_up(&set("1-99"), &forks), GtidSet::default());
    assert_eq!(record(&forks).given_up(&set("1-99"), &[]), GtidSet::default(), "others may know less");
}
