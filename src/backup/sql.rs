//! How the servers of the group are reached, and what all who work with them ask.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::{Conn, Error, OptsBuilder, SslOpts};

use trivet_mysql::escaped;
pub use trivet_mysql::{executed, identifier, purged, role};

use crate::config::{Member, Mysql};

/// Connecting to a server and asking it what it has.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The account on every member, and the authority of their certificates.
#[derive(Debug, Clone)]
pub struct Access {
    user: String,
    password: String,
    ca: PathBuf,
    primary: SocketAddr,
}

impl Access {
    /// As the configuration names it, with what its password file holds.
    pub fn new(mysql: &Mysql, password: String) -> Self {
        Self { user: mysql.user.clone(), password, ca: mysql.ca.clone(), primary: mysql.primary }
    }

    /// A member, over TLS that is verified with the cluster's CA.
    pub async fn member(&self, member: &Member) -> Result<Conn, Error> {
        self.connect(member.address, false).await
    }

    /// The primary, through the gateway, whose address is not in a member's certificate.
    pub async fn primary(&self) -> Result<Conn, Error> {
        self.connect(self.primary, true).await
    }

    async fn connect(&self, address: SocketAddr, any_name: bool) -> Result<Conn, Error> {
        let tls = SslOpts::default()
            .with_root_certs(vec![self.ca.clone().into()])
            .with_disable_built_in_roots(true)
            .with_danger_skip_domain_validation(any_name);
        let opts = OptsBuilder::default()
            .ip_or_hostname(address.ip().to_string())
            .tcp_port(address.port())
            .user(Some(self.user.clone()))
            .pass(Some(self.password.clone()))
            .ssl_opts(tls)
            .prefer_socket(false)
            // A member sends events of up to a gigabyte, whatever its own max_allowed_packet is.
            .max_allowed_packet(Some(1 << 30));
        Conn::new(opts).await
    }

    /// What a scratch server is told to copy a member. Holds the password; scratch servers log no statements.
    pub fn clone_statement(&self, donor: &Member, into: &Path) -> String {
        format!(
            "CLONE INSTANCE FROM '{}'@'{}':{} IDENTIFIED BY '{}' DATA DIRECTORY = '{}' REQUIRE SSL",
            escaped(&self.user, '\''),
            donor.address.ip(),
            donor.address.port(),
            escaped(&self.password, '\''),
            escaped(&into.display().to_string(), '\''),
        )
    }

    /// An option file (`--defaults-file`) for MySQL's own clients towards the primary, the password in it.
    pub fn client_options(&self) -> String {
        format!(
            "[client]\nhost={}\nport={}\nprotocol=TCP\nuser=\"{}\"\npassword=\"{}\"\nssl-mode=VERIFY_CA\nssl-ca=\"{}\"\n",
            self.primary.ip(),
            self.primary.port(),
            escaped(&self.user, '"'),
            escaped(&self.password, '"'),
            escaped(&self.ca.display().to_string(), '"')
        )
    }
}
