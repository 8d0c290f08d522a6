//! Configuration files.

use std::path::Path;

use trivet_base::config;

/// No panic; an error is one line that says where: at a key, or in the text.
pub fn any(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for name in ["fuzz.toml", "fuzz.json"] {
        let path = Path::new(name);
        let errors = [
            config::parse::<trivet_balancer::config::Config>(path, text).err(),
            config::parse::<trivet_web::config::Config>(path, text).err(),
        ];
        for error in errors.into_iter().flatten() {
            let told = error.to_string();
            assert!(told.starts_with(name) && told.len() > name.len() + 2, "{told:?}");
            assert!(!error.reason.is_empty());
        }
    }
}
