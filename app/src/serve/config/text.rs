//! The TOML parser's errors as sentences for whoever wrote the file.

/// The line, counted from 1, in which a byte lies.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The words between backquotes.
pub(super) fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}

/// Why no configuration can allow a bypass.
const NO_BYPASS: &str = "there is none to allow; a frame that was not anonymized never leaves the box, and its button hides more, never less";

/// The key, what is wrong with its value, and the word that was probably meant.
pub(super) fn explain(text: &str, error: &toml::de::Error) -> String {
    // The parser's own message may go over several lines.
    let message = error.message().lines().collect::<Vec<_>>().join("; ");
    let mut words = quoted(&message);
    let first = words.next().unwrap_or_default();
    if message.starts_with("unknown field") {
        if first == "bypass" {
            return format!("{first}: {NO_BYPASS}");
        }
        return format!("{first}: unknown key; {}", instead(first, words));
    }
    let what = if message.starts_with("unknown variant") {
        format!("`{first}` is not known; {}", instead(first, words))
    } else {
        message.clone()
    };
    match error.span().and_then(|span| key(text, span.start)) {
        Some(key) => format!("{key}: {what}"),
        None => what,
    }
}

/// The word that was probably meant, else all that could be.
fn instead<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    let near = known
        .iter()
        .map(|other| (strsim::damerau_levenshtein(word, other), other))
        .min()
        .filter(|(distance, _)| *distance <= 1 + word.chars().count() / 4);
    match near {
        Some((_, other)) => format!("did you mean {other}?"),
        None => format!("wanted one of {}", known.join(", ")),
    }
}

/// The key in the line in which a byte lies.
fn key(text: &str, offset: usize) -> Option<&str> {
    let line = text.lines().nth(line_of(text, offset) - 1)?;
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (!key.is_empty() && key.chars().all(is_name)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["policy", "look_ahead", "coast"];
        for (word, wanted) in [
            ("polcy", "did you mean policy?"),
            ("look-ahead", "did you mean look_ahead?"),
            ("caost", "did you mean coast?"),
            ("bitrate", "wanted one of policy, look_ahead, coast"),
        ] {
            assert_eq!(instead(word, known.into_iter()), wanted);
        }
    }

    #[test]
    fn lines_are_counted_from_one() {
        for (offset, line) in [(0, 1), (1, 1), (2, 2), (3, 2), (99, 3)] {
            assert_eq!(line_of("a\nb\n", offset), line, "{offset}");
        }
    }
}
