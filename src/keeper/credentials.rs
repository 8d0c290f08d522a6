//! Passwords from files.

use trivet_base::config::ConfigError;
use trivet_tls::private;

use super::config::Mysql;

/// The passwords of the accounts that the keeper makes.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Of `replication_user`.
    pub replication: String,
    /// Of `app_user`.
    pub app: String,
    /// Of `exporter_user`, when it has one.
    pub exporter: Option<String>,
    /// Of `backup_user`, when there is one.
    pub backup: Option<String>,
}

/// MySQL manual, "CHANGE REPLICATION SOURCE TO Statement": the limit of a replication password.
const REPLICATION_LIMIT: usize = 32;

impl Credentials {
    /// Reads all files.
    pub fn read(mysql: &Mysql) -> Result<Self, ConfigError> {
        let replication = private::password(&mysql.replication_password_file)?;
        if replication.chars().count() > REPLICATION_LIMIT {
            return Err(ConfigError::at(
                &mysql.replication_password_file,
                "",
                format_args!(
                    "is longer than {REPLICATION_LIMIT} characters, which MySQL does not take for replication"
                ),
            ));
        }
        Ok(Self {
            replication,
            app: private::password(&mysql.app_password_file)?,
            exporter: mysql.exporter_password_file.as_deref().map(private::password).transpose()?,
            backup: mysql.backup_password_file.as_deref().map(private::password).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn mysql(directory: &Path, replication: &str, app: &str) -> Mysql {
        std::fs::write(directory.join("r"), replication).unwrap();
        std::fs::write(directory.join("a"), app).unwrap();
        let text =
            format!("replication_password_file = '{0}/r'\napp_password_file = '{0}/a'", directory.display());
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn a_password_is_one_line() {
        let d = tempfile::tempdir().unwrap();
        let c = Credentials::read(&mysql(d.path(), "r-secret\n", "a secret")).unwrap();
        assert_eq!((c.replication.as_str(), c.app.as_str(), c.exporter), ("r-secret", "a secret", None));
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        let d = tempfile::tempdir().unwrap();
        let long = "x".repeat(33);
        for (r, a, expected) in [
            ("", "a", "/r: must hold one line"),
            ("r", "a\nb", "/a: must hold one line"),
            (&long, "a", "32 characters"),
        ] {
            let e = Credentials::read(&mysql(d.path(), r, a)).err().expect(expected).to_string();
            assert!(e.contains(expected), "{e}");
        }
        std::fs::remove_file(d.path().join("a")).unwrap();
        let mut m = mysql(d.path(), "r", "a");
        m.app_password_file = d.path().join("none");
        assert!(Credentials::read(&m).err().unwrap().to_string().contains("password cannot be read"));
    }
}
