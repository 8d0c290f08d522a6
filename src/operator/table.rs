//! Tables for a terminal.

use std::fmt::Write as _;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
    Dim,
    Head,
}

/// Text in a table.
pub struct Cell(String, Tone);

pub fn cell(text: impl Into<String>, tone: Tone) -> Cell {
    Cell(plain(&text.into()), tone)
}

/// Without what a terminal would obey: some of it is what back ends say.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

pub fn header(names: &[&str]) -> Vec<Cell> {
    names.iter().map(|n| cell(*n, Tone::Dim)).collect()
}

/// Where there is nothing.
pub fn none() -> Cell {
    cell("-", Tone::Dim)
}

/// With colours or without.
pub struct Paint {
    pub colours: bool,
}

impl Paint {
    pub fn on(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Dim => "2",
            Tone::Head => "1",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Rows of the same number of cells, the columns as wide as they must be.
    pub fn grid(&self, out: &mut String, rows: &[Vec<Cell>]) {
        let columns = rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> =
            (0..columns).map(|c| rows.iter().map(|r| r[c].0.chars().count()).max().unwrap_or(0)).collect();
        for row in rows {
            let mut line = String::new();
            for (Cell(text, tone), width) in row.iter().zip(&widths) {
                line.push_str(&self.on(text, *tone));
                line.push_str(&" ".repeat(width + 2 - text.chars().count()));
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
}
