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
