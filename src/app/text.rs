//! Text on its way in and out: Markdown, slugs, tags, limits, excerpts.

pub mod excerpt;
pub mod front_matter;
pub mod markdown;
pub mod renderer;
pub mod rules;
