//! What is changed in a dump on its way: its lines come from `mysqldump`, whose form they have.
//!
//! Data never looks like the lines that are changed: a newline in a string is written as `\n`, so that a line of data begins with INSERT. A
//! body of a trigger, routine or event has lines of its own, of which only the first is looked at.

use serde::{Deserialize, Serialize};

/// A position in the source's binary log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The file's name.
    pub file: String,
    /// Octets from its beginning.
    pub offset: u64,
}

impl Position {
    /// Whether everything before `other` is before this one, too. Files are numbered: binlog.000009, binlog.1000000. False when their names differ in
    /// more than the number: nobody knows the order of two logs.
    pub fn reaches(&self, other: &Self) -> bool {
        let (Some(this), Some(that)) = (self.file.rsplit_once('.'), other.file.rsplit_once('.')) else {
            return false;
        };
        let (Ok(number), Ok(wanted)) = (this.1.parse::<u64>(), that.1.parse::<u64>()) else { return false };
        this.0 == that.0 && (number, self.offset) >= (wanted, other.offset)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// What to change.
#[derive(Debug, Default)]
pub struct Filter {
    /// Definers are left out: whoever loads the dump becomes the definer.
    pub drop_definers: bool,
    /// Events are disabled, as on a replica.
    pub disable_events: bool,
    /// The position that the dump names (`--source-data=2`).
    pub position: Option<Position>,
    /// The source's transactions that are in the dump, which it names in a comment (`--set-gtid-purged=COMMENTED`).
    pub gtids: Option<String>,
    /// The dump's last line was seen.
    pub is_whole: bool,
    pub(crate) body_begins: bool,
    /// The first database was seen: settings are behind.
    pub(crate) past_settings: bool,
    /// The comment with the GTIDs, of which an end was not seen yet.
    pub(crate) comment: Option<String>,
}

/// What 8.0 and later have no more, and dumps of older servers name in `SET sql_mode`.
const GONE_MODE: &str = "NO_AUTO_CREATE_USER";

impl Filter {
    /// Looks at a line, its newline included, and changes it.
    pub fn line(&mut self, line: &mut Vec<u8>) {
        let begins = std::mem::take(&mut self.body_begins);
        if !self.past_settings {
            self.settings(line);
        }
        if line.starts_with(b"DELIMITER ;;") {
            self.body_begins = true;
        } else if line.starts_with(b"/*!50003 SET ") {
            // Between DELIMITER and an event's body stand settings for it.
            self.body_begins = begins;
            if line.starts_with(b"/*!50003 SET sql_mode") {
                replace(line, without_gone_mode);
            }
        } else if begins {
            self.body(line);
        } else if self.drop_definers && line.starts_with(b"/*!50013 DEFINER=") {
            replace(line, without_definer);
        } else if line.starts_with(b"-- CHANGE ") && self.position.is_none() {
            self.position = std::str::from_utf8(line).ok().and_then(position);
        } else if line.starts_with(b"-- Dump completed") {
            self.is_whole = true;
        }
    }

    /// What stands before the first database.
    fn settings(&mut self, line: &mut Vec<u8>) {
        let Ok(text) = std::str::from_utf8(line) else { return };
        if text.starts_with("CREATE DATABASE") || text.starts_with("USE ") {
            self.past_settings = true;
        } else if text.trim_end() == "SET @@SESSION.SQL_LOG_BIN= 0;" {
            // Comes with the GTIDs. Without the binary log the copy would be on this member alone.
            line.clear();
        } else if self.comment.is_some() || text.starts_with("/* SET @@GLOBAL.GTID_PURGED=") {
            let comment = self.comment.get_or_insert_default();
            comment.push_str(text);
            if text.contains("*/") {
                self.gtids = gtids(comment);
                self.comment = None;
            }
        }
    }

    fn body(&self, line: &mut Vec<u8>) {
        if self.disable_events && line.starts_with(b"/*!50106 CREATE*/") {
            replace(line, |text| text.replacen(" PRESERVE ENABLE", " PRESERVE DISABLE ON REPLICA", 1));
        }
        if self.drop_definers && (line.starts_with(b"CREATE DEFINER=") || line.starts_with(b"/*!5")) {
            replace(line, without_definer);
        }
    }
}

/// Octet by octet: mysqldump writes bodies in whatever character set they were made in. What is looked for, and put there, is ASCII.
fn replace(line: &mut Vec<u8>, by: impl Fn(&str) -> String) {
    let text: String = line.iter().map(|octet| char::from(*octet)).collect();
    // Each is one of the first 256.
    *line = by(&text).chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect();
}

fn without_gone_mode(text: &str) -> String {
    let mut text = text.to_owned();
    for form in [format!("{GONE_MODE},"), format!(",{GONE_MODE}"), GONE_MODE.to_owned()] {
        text = text.replace(&form, "");
    }
    text
}

/// The first `DEFINER=`user`@`host`` is taken away, and the comment around it when nothing else is in it.
fn without_definer(text: &str) -> String {
    let Some(begin) = text.find("DEFINER=`") else { return text.to_owned() };
    let after = &text[begin + "DEFINER=".len()..];
    let Some(user) = quoted(after) else { return text.to_owned() };
    let Some(host) = after[user..].strip_prefix('@').and_then(quoted) else { return text.to_owned() };
    let rest = &after[user + 1 + host..];
    let (before, rest) = (&text[..begin], rest.strip_prefix(' ').unwrap_or(rest));
    match (before.rfind("/*!"), rest.strip_prefix("*/")) {
        // `/*!50017 DEFINER=…*/ `
        (Some(comment), Some(rest)) => {
            format!("{}{}", &text[..comment], rest.strip_prefix(' ').unwrap_or(rest))
        }
        _ => format!("{before}{rest}"),
    }
}

/// How many octets the name in backticks has at the beginning of the text, the backticks included.
fn quoted(text: &str) -> Option<usize> {
    let mut rest = text.strip_prefix('`')?;
    loop {
        let end = rest.find('`')?;
        rest = &rest[end + 1..];
        match rest.strip_prefix('`') {
            Some(more) => rest = more,
            None => return Some(text.len() - rest.len()),
        }
    }
}

/// `-- CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='binlog.000001', SOURCE_LOG_POS=1390;`, or MASTER in place of SOURCE.
fn position(line: &str) -> Option<Position> {
    let (_, after) = line.split_once("_LOG_FILE='")?;
    let (file, after) = after.split_once('\'')?;
    let (_, offset) = after.split_once("_LOG_POS=")?;
    let digits: String = offset.chars().take_while(char::is_ascii_digit).collect();
    Some(Position { file: file.into(), offset: digits.parse().ok()? })
}

/// `/* SET @@GLOBAL.GTID_PURGED='+UUID:1-7,\nUUID:1-3';*/`
fn gtids(comment: &str) -> Option<String> {
    let (_, after) = comment.split_once('\'')?;
    let (set, _) = after.rsplit_once('\'')?;
    let set: String = set.trim_start_matches('+').split_whitespace().collect();
    let is_set = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | ',' | '_');
    set.chars().all(is_set).then_some(set)
}

#[cfg(test)]
mod tests;
