//! HTML of texts, made beside the runtime and remembered.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::markdown::{self, Profile};

/// Octets of HTML that are remembered at most.
const REMEMBERED: usize = 32 * 1024 * 1024;

/// SHA-256 of a text, and how it is shown. Addressed by content, so that it is right whatever happens to the database.
type Key = (Profile, [u8; 32]);

/// Renders and remembers.
#[derive(Debug)]
pub struct Renderer {
    memory: Mutex<Memory>,
    /// More at a time than there are processors would only take them from those who read.
    turns: Semaphore,
}

impl Default for Renderer {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { memory: Mutex::new(Memory::new(REMEMBERED)), turns: Semaphore::new(processors) }
    }
}

impl Renderer {
    /// The safe HTML of `markdown`. An article of 20 KB takes about 4 ms to render and sanitise, so no thread that
    /// serves requests does it.
    pub async fn render(&self, profile: Profile, markdown: &str) -> Arc<str> {
        let key: Key = (profile, Sha256::digest(markdown.as_bytes()).into());
        if let Some(html) = self.memory.lock().find(&key) {
            return html;
        }
        let _turn = self.turns.acquire().await;
        // Whoever was before us may have wanted the same.
        if let Some(html) = self.memory.lock().find(&key) {
            return html;
        }
        let text = markdown.to_owned();
        let html: Arc<str> = match tokio::task::spawn_blocking(move || markdown::render(profile, &text)).await
        {
            Ok(html) => html.into(),
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        };
        self.memory.lock().keep(key, html.clone());
        html
    }
}

/// Texts in two generations: what nobody asked for while one was filled goes when the next one is full. So a reader of
/// everything does not drive out what all read.
#[derive(Debug)]
struct Memory {
    room: usize,
    used: usize,
    young: HashMap<Key, Arc<str>>,
    old: HashMap<Key, Arc<str>>,
}

impl Memory {
    /// For about `most` octets.
    fn new(most: usize) -> Self {
        Self { room: most / 2, used: 0, young: HashMap::new(), old: HashMap::new() }
    }

    fn find(&mut self, key: &Key) -> Option<Arc<str>> {
        if let Some(html) = self.young.get(key) {
            return Some(html.clone());
        }
        let html = self.old.remove(key)?;
        self.keep(*key, html.clone());
        Some(html)
    }

    fn keep(&mut self, key: Key, html: Arc<str>) {
        if self.used + html.len() > self.room {
            self.old = std::mem::take(&mut self.young);
            self.used = 0;
        }
        self.used += html.len();
        if let Some(same) = self.young.insert(key, html) {
            self.used -= same.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_text_is_rendered_once() {
        let renderer = Renderer::default();
        let a = renderer.render(Profile::Article, "# x").await;
        assert!(Arc::ptr_eq(&a, &renderer.render(Profile::Article, "# x").await));
        assert_ne!(a, renderer.render(Profile::Comment, "# x").await);
    }

    #[test]
    fn the_memory_has_an_end_and_what_is_asked_for_stays() {
        let key = |n: u8| (Profile::Article, [n; 32]);
        let mut memory = Memory::new(1000);
        memory.keep(key(0), "popular".into());
        for n in 1..=100 {
            assert!(memory.find(&key(0)).is_some(), "after {n} others");
            memory.keep(key(n), "x".repeat(90).into());
            let held: usize = memory.young.values().chain(memory.old.values()).map(|html| html.len()).sum();
            assert!(held <= 1000, "{held}");
        }
        assert!(memory.find(&key(1)).is_none());
    }
}
