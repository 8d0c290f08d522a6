//! What an operator should mend although the program works, for `/status` and `trivet status`. Kept for the whole process, since
//! files are read in many places, most of them before there is anything that could be asked.

use std::collections::BTreeMap;

use parking_lot::Mutex;

static ALL: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// How to look again at what was looked at before.
static LOOKS: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// Has `look` called whenever the warnings are to be as new as can be; it [`set`]s what it finds.
pub fn look_with(look: fn()) {
    LOOKS.lock().push(look);
}

/// Looks again at everything about which there may be a warning.
pub fn look_again() {
    let looks = LOOKS.lock().clone();
    looks.iter().for_each(|look| look());
}

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

    #[test]
    fn who_warns_is_asked_to_look_again() {
        look_with(|| {
            set("a second look", Some("it still leaks".into()));
        });
        assert!(!all().contains(&"it still leaks".to_owned()));
        look_again();
        assert!(all().contains(&"it still leaks".to_owned()));
    }
}
