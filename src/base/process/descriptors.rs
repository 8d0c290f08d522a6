//! Descriptors: how many this process may have (`RLIMIT_NOFILE`, getrlimit(2)), and whether a configuration gets by with them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Invalid;

/// What a program has beside connections: listeners, log, metrics and whoever reads them, files that are being read, and four for
/// each thread's runtime.
const RESERVE: u64 = 1024;

/// Of one check: its connection, and that of the one before, which is just being closed.
const CHECK: u64 = 2;

/// What `in_use` connections to clients and to back ends may take, beside `kept` unused ones and the checks of `checked` back
/// ends. nixos/limits.nix counts likewise.
pub fn wanted(in_use: u64, kept: usize, checked: usize) -> u64 {
    let checks = CHECK.saturating_mul(checked as u64);
    in_use.saturating_add(kept as u64).saturating_add(checks).saturating_add(RESERVE)
}

/// The most that the process can have; none where there is no limit.
fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Takes what may be had: shells and init systems begin with 1,024, which suits programs that use select(2).
pub fn raise() {
    let now = getrlimit(Resource::Nofile);
    // If that is refused, what there is must do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
}

/// Refuses more connections (`key` says how many) than there can be descriptors.
pub fn fit(key: &str, connections: u64, wanted: u64) -> Result<(), Invalid> {
    fit_into(most(), key, connections, wanted)
}

fn fit_into(most: Option<u64>, key: &str, connections: u64, wanted: u64) -> Result<(), Invalid> {
    match most {
        Some(most) if connections.saturating_add(RESERVE) > most => Invalid::err(
            key,
            format_args!(
                "is {connections}, but this process may open {most} descriptors, and {wanted} may be wanted: lower it, or raise \
                 that limit (LimitNOFILE= of the unit, ulimit -Hn in a shell)"
            ),
        ),
        _ => Ok(()),
    }
}

/// What is to be said where the connections fit, but perhaps not all that belongs to them.
pub fn scarce(wanted: u64) -> Option<String> {
    scarce_of(most(), wanted)
}

fn scarce_of(most: Option<u64>, wanted: u64) -> Option<String> {
    let most = most.filter(|most| *most < wanted)?;
    Some(format!(
        "the configured connections and what belongs to them may want {wanted} descriptors, but this process may open {most}: \
         raise that limit (LimitNOFILE= of the unit, ulimit -Hn in a shell), or lower max_connections"
    ))
}

/// The same, to the log.
pub fn tell(wanted: u64) {
    if let Some(warning) = scarce(wanted) {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_descriptors_are_refused_with_both_numbers() {
        let refused = fit_into(Some(4096), "https.max_connections", 4000, 8256).unwrap_err();
        assert_eq!(refused.key, "https.max_connections");
        assert!(refused.reason.starts_with("is 4000, but this process may open 4096"), "{refused:?}");
        assert_eq!(fit_into(Some(8256), "https.max_connections", 4000, 8256), Ok(()));
        assert_eq!(fit_into(None, "https.max_connections", 4000, 8256), Ok(()));
    }

    #[test]
    fn descriptors_that_may_run_out_are_told() {
        assert!(scarce_of(Some(8255), 8256).unwrap().contains("may want 8256 descriptors"));
        assert_eq!(scarce_of(Some(8256), 8256), None);
        assert_eq!(scarce_of(None, 8256), None);
    }

    #[test]
    fn a_process_takes_what_it_may_have() {
        raise();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }
}
