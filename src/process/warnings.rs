//! What an operator should mend although the program works, for `/status` and `trivet status`. Kept for the whole process, since
//! files are read in many places, most of them before there is anything that could be asked.

use std::collections::BTreeMap;

use parking_lot::Mutex;

static ALL: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// What is to be said about `subject` from now on, `None` when nothing is any more; whether that is news.
pub fn set(subject: impl Into<String>, warning: Option<String>) -> bool {
    let mut all = ALL.lock();
    match warning {
        Some(warning) => {
            let subject = subject.into();
            let news = all.get(&subject) != Some(&warning);
            all.insert(subject, warning);
            news
        }
        None => all.remove(&subject.into()).is_some(),
    }
}

/// All of them.
pub fn all() -> Vec<String> {
    ALL.lock().values().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_stands_until_it_is_taken_back() {
        assert!(set("a test's file", Some("it leaks".into())));
        assert!(!set("a test's file", Some("it leaks".into())), "no news");
        assert!(all().contains(&"it leaks".to_owned()));
        assert!(set("a test's file", None));
        assert!(!all().contains(&"it leaks".to_owned()));
    }
}
