//! The command line: serve (the default), `migrate`, `import`, `user`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::config::Config;
use trivet_base::config::{self, ConfigError};
use trivet_base::process::{self, Failure};

mod commands;

/// Every message to the operator starts with it.
pub const NAME: &str = "trivet-app";
/// Read when `--config` is not given and it exists.
const DEFAULT_CONFIG: &str = "/etc/trivet/app.json";

#[derive(Debug, Parser)]
#[command(name = NAME, version, about = "The reference site of a Trivet cluster")]
struct Cli {
    /// Configuration file; TOML, or JSON when its name ends in .json. Default: /etc/trivet/app.json when it exists.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Check the configuration and exit: 0 when it is good, 64 with file, key and reason when it is not.
    #[arg(long)]
    check: bool,
    /// File of NAME=VALUE lines, taken as environment where the environment does not have NAME.
    #[arg(long, value_name = "FILE", global = true)]
    env_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the site (what happens without a command, too).
    Serve,
    /// Bring the database's schema up to date; the service does it by itself at its start.
    Migrate,
    /// Make the articles be what the Markdown files of a folder say; all of them, or none when one has a mistake.
    Import {
        /// Folder with *.md files.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Read and check the files, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Accounts.
    #[command(subcommand)]
    User(User),
}

#[derive(Debug, Subcommand)]
enum User {
    /// Make an account, or give a password to an author whom an import named.
    Add {
        /// Letters, digits, dots, hyphens and underscores.
        name: String,
        /// May edit everybody's articles.
        #[arg(long)]
        editor: bool,
        /// File with the password in its first line; otherwise it is read from standard input.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Set an account's password, and end its sessions.
    Password {
        /// The account.
        name: String,
        /// File with the password in its first line; otherwise it is read from standard input.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// List the accounts.
    List,
}

/// Runs the program; the process's exit status.
pub fn main() -> ExitCode {
    match process::parse_args::<Cli>() {
        Ok(cli) => process::finish(NAME, run(cli)),
        Err(code) => code,
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let path = config_path(&cli);
    let mut config: Config = match &path {
        Some(path) => config::load(path)?,
        None => Config::default(),
    };
    if cli.check {
        let path = path.unwrap_or_else(|| "(defaults)".into());
        println!("{NAME}: {}: ok", path.display());
        return Ok(());
    }
    let more = cli.env_file.as_deref().map(read_env_file).transpose()?.unwrap_or_default();
    let variable = |name: &str| {
        let of_file = || more.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        std::env::var(name).ok().or_else(of_file)
    };
    config.apply_environment(variable)?;
    let file = path.unwrap_or_else(|| "environment".into());
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => process::block_on(super::serve(file, config)),
        Command::Migrate => process::block_on(commands::migrate(&file, &config)),
        Command::Import { folder, dry_run } => {
            process::block_on(commands::import(&file, &config, &folder, dry_run))
        }
        Command::User(user) => process::block_on(commands::user(&file, &config, user)),
    }
}

fn config_path(cli: &Cli) -> Option<PathBuf> {
    let default = Path::new(DEFAULT_CONFIG);
    cli.config.clone().or_else(|| default.exists().then(|| default.to_owned()))
}

/// The lines of an environment file as systemd reads simple ones: `NAME=VALUE`, comments, optional quotes.
fn read_env_file(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| ConfigError::at(path, "", format_args!("cannot be read: {e}")))?;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err(ConfigError::at(path, format!("line {}", number + 1), "is not NAME=VALUE"));
        };
        let value = value.trim();
        let quoted = |q: char| value.strip_prefix(q).and_then(|v| v.strip_suffix(q));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        found.push((name.trim().to_owned(), value.to_owned()));
    }
    Ok(found)
}
