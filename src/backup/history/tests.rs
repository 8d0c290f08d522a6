use super::*;

const FOLDER: &str = "/srv/backup";

fn row(id: &str, location: &str, is_made: bool) -> Known {
    Known { id: id.into(), location: location.into(), is_made }
}

fn stands(id: Option<&str>, known: &[Known]) -> Result<Standing, String> {
    standing("main", "repository main in /srv/backup", FOLDER, id, known).map_err(|e| e.to_string())
}

#[test]
fn a_repository_that_the_group_has_made_may_be_written_to_wherever_it_is_mounted_now() {
    assert_eq!(stands(Some("a"), &[row("a", FOLDER, true)]), Ok(Standing::Ours));
    assert_eq!(stands(Some("a"), &[row("a", "/mnt/old", true)]), Ok(Standing::Ours));
}

#[test]
fn a_group_that_was_formed_anew_leaves_the_repository_of_the_one_before_alone() {
    for known in [vec![], vec![row("b", "/srv/new", true)], vec![row("b", FOLDER, true)]] {
        let refused = stands(Some("a"), &known).unwrap_err();
        assert!(refused.contains("another history of this cluster"), "{refused}");
        assert!(refused.contains("repositories.main") && refused.contains("keep that one"), "{refused}");
    }
}

#[test]
fn a_repository_with_what_was_given_up_is_left_alone_although_the_numbers_come_again() {
    const GROUP: &str = "6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001";
    let set = |text: &str| text.replace("G:", &format!("{GROUP}:")).parse::<GtidSet>().unwrap();
    let marks = ["11111111-0000-0000-0000-000000000000", "22222222-0000-0000-0000-000000000000"];
    let fork = |mark: &str, gtids: &str| Fork { mark: mark.into(), gtids: set(gtids) };
    let first = fork(marks[0], "G:1-9");
    let second = fork(marks[1], &format!("G:1-30,{}:1", marks[0]));
    let both = [first.clone(), second];
    let refused = |has: &[&str]| {
        let has: Vec<GtidSet> = has.iter().map(|text| set(text)).collect();
        unbroken("main", "repository main in /srv/backup", &has, &both).map_err(|e| e.to_string())
    };
    // Begun before, and nothing in it was given up.
    assert_eq!(refused(&[]), Ok(()));
    assert_eq!(refused(&["G:1-7", "G:1-9"]), Ok(()));
    // Gone through one, or both.
    assert_eq!(refused(&[&format!("G:1-30,{}:1", marks[0])]), Ok(()));
    assert_eq!(refused(&[&format!("G:1-99,{}:1,{}:1", marks[0], marks[1])]), Ok(()));
    // A base copy, or the log, that has more.
    assert_eq!(given_up(&set("G:1-12"), std::slice::from_ref(&first)), set("G:10-12"));
    let said = refused(&["G:1-9", "G:1-12"]).unwrap_err();
    assert!(said.contains(&format!("{GROUP}:10-12")) && said.contains("repositories.main"), "{said}");
    let said = refused(&[&format!("G:1-31,{}:1", marks[0])]).unwrap_err();
    assert!(said.contains(&format!("({GROUP}:31)")), "{said}");
    assert_eq!(given_up(&set("G:1-12"), &[]), GtidSet::default());
}

#[test]
fn an_empty_place_where_there_was_a_repository_is_not_mounted() {
    let refused = stands(None, &[row("a", FOLDER, true)]).unwrap_err();
    assert!(refused.contains("is it mounted") && refused.contains("id = 'a'"), "{refused}");
    assert_eq!(stands(None, &[row("a", "/srv/other", true)]), Ok(Standing::New));
}

#[test]
fn a_repository_whose_making_was_interrupted_keeps_its_id() {
    assert_eq!(stands(None, &[row("a", FOLDER, false)]), Ok(Standing::Begun("a".into())));
    assert_eq!(stands(Some("a"), &[row("a", FOLDER, false)]), Ok(Standing::Ours));
}
