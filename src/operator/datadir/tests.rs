use super::*;

fn directory() -> (tempfile::TempDir, DataDirectory) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mysql");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(path.join("ibdata1"), "old").unwrap();
    let data = DataDirectory::at(&path).unwrap();
    (folder, data)
}

/// As it is where a file system is mounted on it.
fn mounted() -> (tempfile::TempDir, DataDirectory) {
    let (folder, data) = directory();
    (folder, DataDirectory { is_mounted: true, ..data })
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_there_is_kept_aside_and_another_takes_its_place() {
    for (folder, data) in [directory(), mounted()] {
        let ours = data.staging();
        let staging = ours.path.clone();
        assert!(ours.clear().unwrap());
        ours.mark().unwrap();
        fs::create_dir(&staging).unwrap();
        fs::create_dir(staging.join("mysql")).unwrap();
        fs::write(staging.join("ibdata1"), "restored").unwrap();
        let aside = data.set_aside(OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!(fs::read_to_string(aside.join("ibdata1")).unwrap(), "old", "{}", folder.path().display());
        assert!(!data.path().join("ibdata1").exists());
        data.hand_over(&staging).unwrap();
        data.take(&staging).unwrap();
        assert!(ours.clear().unwrap());
        assert_eq!(fs::read_to_string(data.path().join("ibdata1")).unwrap(), "restored");
        assert!(data.path().join("mysql").is_dir());
        assert!(!staging.exists());
        assert_eq!(fs::metadata(data.path()).unwrap().mode() & 0o777, 0o750);
    }
}

#[test]
fn what_stands_aside_stays_where_it_is_when_more_is_set_aside() {
    let (_folder, data) = mounted();
    let first = data.set_aside(OffsetDateTime::UNIX_EPOCH).unwrap();
    fs::write(data.path().join("ibdata1"), "second").unwrap();
    fs::create_dir(data.path().join("lost+found")).unwrap();
    let second = data.set_aside(OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(1)).unwrap();
    assert_eq!(names(&first), ["ibdata1"]);
    assert_eq!(names(&second), ["ibdata1"]);
    assert_eq!(names(data.path()).len(), 3, "{:?}", names(data.path()));
    // Nothing that is kept is ever written over.
    data.set_aside(OffsetDateTime::UNIX_EPOCH).unwrap_err();
    let (_folder, data) = directory();
    data.set_aside(OffsetDateTime::UNIX_EPOCH).unwrap();
    data.set_aside(OffsetDateTime::UNIX_EPOCH).unwrap_err();
}

#[test]
fn what_is_no_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/var", &link).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [&link, &file, &folder.path().join("absent"), Path::new("relative")] {
        assert!(DataDirectory::at(path).is_err(), "{}", path.display());
    }
}

#[test]
fn what_is_left_of_a_restore_is_taken_away_and_what_is_somebody_elses_is_not() {
    for (_folder, data) in [directory(), mounted()] {
        let staging = data.staging();
        fs::create_dir(&staging.path).unwrap();
        fs::write(staging.path.join("ibdata1"), "somebody's").unwrap();
        assert!(!staging.clear().unwrap());
        assert_eq!(fs::read_to_string(staging.path.join("ibdata1")).unwrap(), "somebody's");
        staging.mark().unwrap();
        assert!(staging.clear().unwrap());
        assert!(!staging.path.exists());
    }
}

/// As mysqld leaves it.
fn whole() -> (tempfile::TempDir, DataDirectory) {
    let (folder, data) = directory();
    for file in ["mysql.ibd", "undo_001", "undo_002", "auto.cnf"] {
        fs::write(data.path().join(file), "").unwrap();
    }
    fs::create_dir(data.path().join("#innodb_redo")).unwrap();
    let inside = format!("./binlog.000001\n{}\n", data.path().join("binlog.000002").display());
    fs::write(data.path().join("binlog.index"), inside).unwrap();
    fs::write(data.path().join("relay.index"), "./relay.000001\n").unwrap();
    (folder, data)
}

#[test]
fn a_database_of_which_a_part_is_elsewhere_is_refused_with_the_setting() {
    let (_folder, data) = whole();
    data.has_all().unwrap();
    for (gone, setting) in [
        ("mysql.ibd", "datadir"),
        ("ibdata1", "innodb_data_home_dir"),
        ("#innodb_redo", "innodb_log_group_home_dir"),
        ("binlog.index", "log_bin"),
    ] {
        let (_folder, data) = whole();
        fs::rename(data.path().join(gone), data.path().with_extension("elsewhere")).unwrap();
        let said = data.has_all().unwrap_err().to_string();
        assert!(said.contains(&format!("take {setting} out")) && said.contains("--data-directory"), "{said}");
    }
    for (index, setting) in [("binlog.index", "log_bin"), ("relay.index", "relay_log")] {
        let (_folder, data) = whole();
        fs::write(data.path().join(index), "/var/log/mysql/file.000001\n").unwrap();
        let said = data.has_all().unwrap_err().to_string();
        assert!(
            said.contains("/var/log/mysql/file.000001") && said.contains(&format!("take {setting} out")),
            "{said}"
        );
    }
}

#[test]
fn an_empty_data_directory_lacks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataDirectory::at(folder.path()).unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    fs::write(folder.path().join(".mysql.restored.begun"), "").unwrap();
    data.has_all().unwrap();
}
