//! Words of a comment, and the lists of pronouns and interrogatives.

/// Pronouns and relative words, a closed list: third-person pronouns with the possessive forms,
/// demonstratives, relative and interrogative pronouns, and `one`.
///
/// Every entry stands in for a noun, and the reader has to look for that noun elsewhere. Three
/// groups are left out for lack of such a search: the first and second person (program and
/// reader), reflexives (subject of the same clause), and indefinites like `nothing`, `other` or
/// `each` (no noun meant, or the noun follows).
pub const PRONOUNS: &[&str] = &[
    "he", "she", "it", "they", "him", "her", "them", "his", "hers", "its", "their", "theirs",
    "this", "that", "these", "those", "what", "which", "who", "whom", "whose", "one", "ones",
];

/// Interrogatives counted as the first word of a doc comment.
pub const INTERROGATIVES: &[&str] = &[
    "what", "whether", "how", "why", "who", "whose", "when", "which", "where",
];

/// Finds a lower-case word in [`PRONOUNS`]; a contraction like `it's` counts by its first part.
pub(super) fn is_pronoun(word: &str) -> bool {
    let stem = word.split(['\'', '’']).next().unwrap_or(word);
    PRONOUNS.contains(&stem)
}

/// Compares the first word of a comment with [`INTERROGATIVES`]. Code is no word.
pub(super) fn opens_with_interrogative(text: &str) -> bool {
    let start = text.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '`');
    let word: String = start.chars().take_while(|c| c.is_alphabetic()).collect();
    INTERROGATIVES.contains(&word.to_lowercase().as_str())
}

/// Runs of letters in lower case, joined by inner apostrophes and hyphens.
pub(super) fn of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let next_is_letter = chars.peek().is_some_and(|next| next.is_alphabetic());
        let joins = matches!(c, '\'' | '’' | '-') && !word.is_empty() && next_is_letter;
        if c.is_alphabetic() || joins {
            word.extend(c.to_lowercase());
        } else if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Text without code fences, inline code, link targets and addresses.
pub(super) fn prose_of(text: &str) -> String {
    let mut fence = None;
    let mut kept = String::new();
    for line in text.lines() {
        let mark = ["```", "~~~"]
            .into_iter()
            .find(|mark| line.trim_start().starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, None) if !is_link_definition(line) => {
                kept.push_str(line);
                kept.push('\n');
            }
            _ => {}
        }
    }
    without_addresses(&without_link_targets(&without_inline_code(&kept)))
}

/// Recognizes a link definition: `[name]: target`.
fn is_link_definition(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with('[') && line.contains("]: ")
}

fn without_inline_code(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        let (before, from) = rest.split_at(start);
        let inner = from.trim_start_matches('`');
        let mark = &from[..from.len() - inner.len()];
        let Some(end) = inner.find(mark) else {
            break;
        };
        kept.push_str(before);
        kept.push(' ');
        rest = &inner[end + mark.len()..];
    }
    kept.push_str(rest);
    kept
}

/// Drops the targets in `[text](target)` and `[text][target]`.
fn without_link_targets(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(']') {
        let (before, from) = rest.split_at(start + 1);
        kept.push_str(before);
        let end = match from.chars().next() {
            Some('(') => from.find(')'),
            Some('[') => from.find(']'),
            _ => None,
        };
        rest = end.map_or(from, |end| &from[end + 1..]);
    }
    kept.push_str(rest);
    kept
}

fn without_addresses(text: &str) -> String {
    let words = text.split_whitespace();
    let kept: Vec<&str> = words.filter(|word| !word.contains("://")).collect();
    kept.join(" ")
}
