//! The accounts of this machine; `passwd(5)`.

use std::path::PathBuf;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub user: u32,
    /// The number of its first group.
    pub group: u32,
    /// Its home, which need not be there.
    pub home: PathBuf,
}

/// The first account of `/etc/passwd` that is so.
pub fn find(is: impl Fn(&Account) -> bool) -> Option<Account> {
    find_in(&std::fs::read_to_string("/etc/passwd").ok()?, is)
}

fn find_in(passwd: &str, is: impl Fn(&Account) -> bool) -> Option<Account> {
    passwd.lines().filter_map(account).find(is)
}

fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    match fields[..] {
        [name, _, user, group, _, home, ..] => Some(Account {
            name: name.into(),
            user: user.parse().ok()?,
            group: group.parse().ok()?,
            home: home.into(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\ntrivet-backup2:x:7:7::/:/\ntrivet-backup:x:991:990::/var/lib/b:/\n";
        let found = |name: &str| find_in(passwd, |a| a.name == name);
        let expected =
            Account { name: "trivet-backup".into(), user: 991, group: 990, home: "/var/lib/b".into() };
        assert_eq!(found("trivet-backup"), Some(expected.clone()));
        assert_eq!(found("nobody"), None);
        assert_eq!(find_in(passwd, |a| a.user == 991), Some(expected));
    }
}
