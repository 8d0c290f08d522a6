//! Short pieces of long texts.

/// A piece of an excerpt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    /// It is one of the words that were searched for.
    pub hit: bool,
}

/// At most about `longest` characters, cut between words.
pub fn shorten(text: &str, longest: usize) -> String {
    let Some((cut, _)) = text.char_indices().nth(longest) else { return text.to_owned() };
    let head = &text[..cut];
    let head = head.rfind(' ').map_or(head, |space| &head[..space]);
    format!("{}…", head.trim_end_matches([' ', ',', ';', ':', '.', '–', '—']))
}

/// The words that are looked for: of three letters or digits at least, in lower case.
pub fn words(typed: &str) -> Vec<String> {
    typed
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| w.chars().count() >= 3)
        .map(str::to_lowercase)
        .collect()
}

/// About `longest` characters around the first of the words that were `typed`, with all of them marked. `later` says that
/// `text` is a piece of a longer one and not its beginning.
pub fn around(text: &str, later: bool, typed: &str, longest: usize) -> Vec<Piece> {
    let words = words(typed);
    // The piece may have been cut within a word.
    let text = if later { text.split_once(' ').map_or(text, |(_, rest)| rest) } else { text };
    let tokens = tokens(text);
    let is_hit = |token: &str| {
        let token = token.to_lowercase();
        words.contains(&token)
    };
    let first = tokens.iter().position(|t| is_hit(t)).unwrap_or(0);
    // A third of the room before the hit, so that it reads like a sentence.
    let mut start = first;
    let mut before = 0;
    while start > 0 && before < longest / 3 {
        start -= 1;
        before += tokens[start].chars().count();
    }
    let mut pieces = Vec::new();
    if start > 0 || later {
        push(&mut pieces, "… ", false);
        while tokens.get(start).is_some_and(|t| t.trim().is_empty()) {
            start += 1;
        }
    }
    let mut used = 0;
    let mut end = start;
    while end < tokens.len() && used < longest {
        push(&mut pieces, tokens[end], is_hit(tokens[end]));
        used += tokens[end].chars().count();
        end += 1;
    }
    if end < tokens.len() {
        if let Some(last) = pieces.last_mut() {
            last.text.truncate(last.text.trim_end().len());
        }
        push(&mut pieces, " …", false);
    }
    pieces
}

fn push(pieces: &mut Vec<Piece>, text: &str, hit: bool) {
    match pieces.last_mut() {
        Some(last) if last.hit == hit => last.text.push_str(text),
        _ => pieces.push(Piece { text: text.to_owned(), hit }),
    }
}

/// Words, and what stands between them.
fn tokens(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut previous = None;
    for (i, c) in text.char_indices() {
        let word = c.is_alphanumeric();
        if previous.is_some_and(|p| p != word) {
            out.push(&text[start..i]);
            start = i;
        }
        previous = Some(word);
    }
    if start < text.len() {
        out.push(&text[start..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(pieces: &[Piece]) -> String {
        pieces.iter().map(|p| if p.hit { format!("[{}]", p.text) } else { p.text.clone() }).collect()
    }

    #[test]
    fn texts_are_cut_between_words() {
        assert_eq!(shorten("one two three", 50), "one two three");
        assert_eq!(shorten("one two, three", 10), "one two…");
        assert_eq!(shorten("äöüäöüäöü", 4), "äöüä…");
    }

    #[test]
    fn the_excerpt_surrounds_the_first_hit_and_marks_all() {
        let text =
            "It is long before the Primary comes into view, and then the primary goes away again for good.";
        let pieces = around(text, false, "primary", 45);
        assert_eq!(plain(&pieces), "… long before the [Primary] comes into view, and …");
        assert_eq!(
            plain(&around("a primary, the primary", false, "PRIMARY", 100)),
            "a [primary], the [primary]"
        );
    }

    #[test]
    fn without_a_hit_it_is_the_beginning() {
        assert_eq!(plain(&around("one two three four", false, "x <b>", 8)), "one two …");
        assert_eq!(plain(&around("", false, "word", 10)), "");
        assert_eq!(plain(&around("日本語 テキスト", false, "テキスト", 100)), "日本語 [テキスト]");
    }

    #[test]
    fn a_piece_from_within_a_text_does_not_look_like_its_beginning() {
        let piece = "ing words before the primary and words after it";
        assert_eq!(
            plain(&around(piece, true, "primary", 100)),
            "… words before the [primary] and words after it"
        );
        assert_eq!(plain(&around("cut off", true, "none", 100)), "… off");
    }
}
