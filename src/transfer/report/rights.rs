//! What an account may do, as `SHOW GRANTS` says it.

use std::collections::BTreeSet;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::error::Answer;

/// The rights of an account: its own, and those of the roles that it has taken on.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    /// Where, and which: `*.*`, or a pattern of a database's name.
    granted: Vec<(Scope, BTreeSet<String>)>,
    /// Taken back for a database (`partial_revokes`).
    revoked: Vec<(Scope, BTreeSet<String>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Everywhere,
    Database(String),
}

impl Rights {
    /// Of the account that asks.
    pub async fn of(conn: &mut Conn) -> Answer<Self> {
        let lines: Vec<String> = conn.query("SHOW GRANTS").await?;
        Ok(Self::parse(&lines))
    }

    /// Reads the lines of `SHOW GRANTS`. Grants of single tables, columns and routines are left out: they are none of a whole database.
    pub fn parse(lines: &[String]) -> Self {
        let mut rights = Self::default();
        for line in lines {
            let (list, rest, to) = if let Some(rest) = line.strip_prefix("GRANT ") {
                let Some((list, rest)) = rest.split_once(" ON ") else { continue };
                (list, rest, &mut rights.granted)
            } else if let Some(rest) = line.strip_prefix("REVOKE ") {
                let Some((list, rest)) = rest.split_once(" ON ") else { continue };
                (list, rest, &mut rights.revoked)
            } else {
                continue;
            };
            if let Some(scope) = scope(rest) {
                to.push((scope, list.split(',').map(|right| right.trim().to_uppercase()).collect()));
            }
        }
        rights
    }

    /// Whether it has this right on `*.*`; for some databases it may have been taken back.
    pub fn globally(&self, right: &str) -> bool {
        self.granted.iter().any(|(scope, list)| *scope == Scope::Everywhere && holds(list, right))
    }

    /// Whether it may do this in all databases.
    pub fn everywhere(&self, right: &str) -> bool {
        self.globally(right) && !self.revoked.iter().any(|(_, list)| holds(list, right))
    }

    /// Whether it may do this in this database.
    pub fn within(&self, database: &str, right: &str) -> bool {
        let concerns = |scope: &Scope| match scope {
            Scope::Everywhere => true,
            Scope::Database(pattern) => matches(pattern, database),
        };
        // A name of a database that something is revoked in is no pattern.
        let is_revoked = self
            .revoked
            .iter()
            .any(|(scope, list)| *scope == Scope::Database(database.to_owned()) && holds(list, right));
        self.granted.iter().any(|(scope, list)| {
            concerns(scope) && holds(list, right) && !(is_revoked && *scope == Scope::Everywhere)
        })
    }
}

/// `ALL PRIVILEGES` are all that can be granted there.
fn holds(list: &BTreeSet<String>, right: &str) -> bool {
    list.contains("ALL PRIVILEGES") || list.contains(right)
}

/// `*.* TO …`, or `` `name`.* TO … ``; nothing for what is smaller than a database.
fn scope(rest: &str) -> Option<Scope> {
    if rest.starts_with("*.* ") {
        return Some(Scope::Everywhere);
    }
    let mut name = String::new();
    let mut left = rest.strip_prefix('`')?;
    loop {
        let end = left.find('`')?;
        name.push_str(&left[..end]);
        left = &left[end + 1..];
        match left.strip_prefix('`') {
            Some(more) => {
                name.push('`');
                left = more;
            }
            None => break,
        }
    }
    left.starts_with(".* ").then_some(Scope::Database(name))
}

/// A pattern of `LIKE` in a grant (MySQL manual, "GRANT Statement"): `%`, `_`, and a backslash before what is meant literally.
fn matches(pattern: &str, name: &str) -> bool {
    fn from(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['%', rest @ ..] => (0..=name.len()).any(|skipped| from(rest, &name[skipped..])),
            ['\\', literal, rest @ ..] => name.first() == Some(literal) && from(rest, &name[1..]),
            ['_', rest @ ..] => !name.is_empty() && from(rest, &name[1..]),
            [literal, rest @ ..] => name.first() == Some(literal) && from(rest, &name[1..]),
        }
    }
    from(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(lines: &[&str]) -> Rights {
        Rights::parse(&lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn rights_hold_where_they_were_granted() {
        let r = rights(&[
            "GRANT SELECT, SHOW VIEW ON *.* TO `u`@`%`",
            "GRANT SHOW_ROUTINE,BACKUP_ADMIN ON *.* TO `u`@`%`",
            r"GRANT TRIGGER ON `my\_shop`.* TO `u`@`%`",
            "GRANT EVENT ON `shop%`.* TO `u`@`%`",
            "GRANT ALL PRIVILEGES ON `a``b`.* TO `u`@`%` WITH GRANT OPTION",
            "GRANT TRIGGER ON `blog`.`posts` TO `u`@`%`",
            "GRANT `role`@`%` TO `u`@`%`",
        ]);
        assert!(r.everywhere("SELECT") && r.everywhere("BACKUP_ADMIN") && !r.everywhere("TRIGGER"));
        assert!(r.within("my_shop", "TRIGGER") && !r.within("myxshop", "TRIGGER"));
        assert!(r.within("shop2", "EVENT") && r.within("shop", "EVENT") && !r.within("my_shop", "EVENT"));
        assert!(r.within("a`b", "TRIGGER") && r.within("other", "SELECT"));
        assert!(!r.within("blog", "TRIGGER"), "one table is not the database");
    }

    #[test]
    fn what_was_revoked_for_a_database_is_missing_there() {
        let r =
            rights(&["GRANT SELECT, TRIGGER ON *.* TO `u`@`%`", "REVOKE SELECT ON `blog`.* FROM `u`@`%`"]);
        assert!(r.within("shop", "SELECT") && !r.within("blog", "SELECT") && r.within("blog", "TRIGGER"));
        assert!(r.globally("SELECT") && !r.everywhere("SELECT") && r.everywhere("TRIGGER"));
    }

    #[test]
    fn all_privileges_are_all_of_them() {
        assert!(
            rights(&["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"])
                .everywhere("EVENT")
        );
        assert!(!rights(&["GRANT USAGE ON *.* TO `u`@`%`"]).everywhere("EVENT"));
    }
}
