//! Who is asking: passwords, sessions, forms that were really ours, and attempts that came too often.

pub mod cookies;
mod key;
pub mod origin;
mod password;
mod throttle;
mod token;

pub use key::SiteKey;
pub use password::{Passwords, hash as hash_password};
pub use throttle::Throttle;
pub use token::{SessionToken, TokenHash, random_text};
