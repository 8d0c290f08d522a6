//! Accounts. They are made by the operator; there is no registration.

use sqlx::{MySqlConnection, Row};

use super::super::db::{Read, Write, is_duplicate};
use super::idempotency::Change;

/// What a sign-in needs to know.
#[derive(Debug, Clone)]
pub struct Account {
    pub id: u64,
    /// The name as it was first written.
    pub name: String,
    /// `None`: nobody can sign in.
    pub password_hash: Option<String>,
    /// May edit everybody's articles.
    pub editor: bool,
}

/// An account by its name; case does not matter.
pub struct ByName<'a>(pub &'a str);

impl Read for ByName<'_> {
    type Out = Option<Account>;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        let row = sqlx::query("SELECT id, name, password_hash, is_editor FROM users WHERE name = ?")
            .bind(self.0)
            .fetch_optional(db)
            .await?;
        row.map(|r| {
            Ok(Account {
                id: r.try_get(0)?,
                name: r.try_get(1)?,
                password_hash: r.try_get(2)?,
                editor: r.try_get(3)?,
            })
        })
        .transpose()
    }
}

pub struct Add<'a> {
    pub name: &'a str,
    /// The PHC string of its password.
    pub password_hash: &'a str,
    /// May edit everybody's articles.
    pub editor: bool,
}

impl Change for Add<'_> {
    /// False when the name is taken by an account that has a password.
    type Out = bool;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<bool> {
        let made = sqlx::query("INSERT INTO users (name, password_hash, is_editor) VALUES (?, ?, ?)")
            .bind(self.name)
            .bind(self.password_hash)
            .bind(self.editor)
            .execute(&mut *db)
            .await;
        match made {
            Ok(_) => Ok(true),
            // An author whom an import named gets a password that way.
            Err(e) if is_duplicate(&e) => {
                let claimed = sqlx::query(
                    "UPDATE users SET password_hash = ?, is_editor = ? WHERE name = ? AND password_hash IS NULL",
                )
                .bind(self.password_hash)
                .bind(self.editor)
                .bind(self.name)
                .execute(db)
                .await?;
                Ok(claimed.rows_affected() == 1)
            }
            Err(e) => Err(e),
        }
    }
}

/// Sets a password, and ends the account's sessions.
pub struct SetPassword<'a> {
    pub name: &'a str,
    /// The PHC string of its new password.
    pub password_hash: &'a str,
}

impl Write for SetPassword<'_> {
    /// False when there is no such account.
    type Out = bool;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<bool> {
        let done = sqlx::query("UPDATE users SET password_hash = ? WHERE name = ?")
            .bind(self.password_hash)
            .bind(self.name)
            .execute(&mut *db)
            .await?;
        sqlx::query("DELETE s FROM sessions s JOIN users u ON u.id = s.user_id WHERE u.name = ?")
            .bind(self.name)
            .execute(db)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// All accounts: name, whether it can sign in, whether it is an editor.
pub struct All;

impl Read for All {
    type Out = Vec<(String, bool, bool)>;

    async fn run(&self, db: &mut MySqlConnection) -> sqlx::Result<Self::Out> {
        let rows =
            sqlx::query("SELECT name, password_hash IS NOT NULL AS can, is_editor FROM users ORDER BY name")
                .fetch_all(db)
                .await?;
        rows.iter().map(|r| Ok((r.try_get(0)?, r.try_get::<i32, _>(1)? == 1, r.try_get(2)?))).collect()
    }
}

/// The number of the account `name`, made without a password when it is not there.
pub async fn find_or_make(db: &mut MySqlConnection, name: &str) -> sqlx::Result<u64> {
    sqlx::query("INSERT IGNORE INTO users (name) VALUES (?)").bind(name).execute(&mut *db).await?;
    sqlx::query_scalar("SELECT id FROM users WHERE name = ?").bind(name).fetch_one(db).await
}
