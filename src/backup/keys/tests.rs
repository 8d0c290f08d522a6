use super::*;

#[test]
fn what_is_sealed_opens_with_the_key_and_with_no_other() {
    let keys = Keys::generate();
    let sealed = keys.seal(b"all there is");
    assert_eq!(keys.open(&sealed).unwrap(), b"all there is");
    assert!(matches!(Keys::generate().open(&sealed), Err(SealError::OtherKey)));
}

#[test]
fn no_bit_can_be_turned_and_no_octet_taken_away() {
    let keys = Keys::generate();
    let sealed = keys.seal(&vec![7; 70_000]);
    for at in (0..sealed.len()).step_by(97).chain([sealed.len() - 1]) {
        let mut altered = sealed.to_vec();
        altered[at] ^= 1;
        assert!(keys.open(&altered).is_err(), "octet {at}");
    }
    for length in [0, 1, 100, sealed.len() / 2, sealed.len() - 1] {
        assert!(keys.open(&sealed[..length]).is_err(), "{length} octets");
    }
}

#[test]
fn the_recovery_key_opens_everything_through_the_sealed_password() {
    let recovery = Identity::generate();
    let keys =
        Keys { identity: Identity::generate(), recovery: Some(recovery.to_public()), opened: Arc::default() };
    let from_the_safe = Keys::from_identity(recovery.to_string().expose_secret()).unwrap();
    assert_eq!(from_the_safe.open(&keys.seal(b"a log")).unwrap(), b"a log");
    let recovered = from_the_safe.recover(&keys.sealed_for_recovery().unwrap().1).unwrap();
    assert_eq!(recovered.password().expose_secret(), keys.password().expose_secret());
}

#[test]
fn a_file_that_holds_no_key_is_refused_with_its_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let key = config::Key { identity_file: file.path().into(), recovery_file: None };
    for text in ["", "hunter2\n", "AGE-SECRET-KEY-1QQ\n", "AGE-SECRET-KEY-1A\nAGE-SECRET-KEY-1B\n"] {
        std::fs::write(file.path(), text).unwrap();
        let refused = Keys::read(&key).err().unwrap().to_string();
        assert!(refused.contains("key.identity_file") && !refused.contains("hunter2"), "{text:?}: {refused}");
    }
    let text = format!("# created: today\n{}\n", Identity::generate().to_string().expose_secret());
    std::fs::write(file.path(), text).unwrap();
    Keys::read(&key).unwrap();
}
