//! Names of test functions, found in the tokens of a file.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use crate::{LintError, Source};

/// Tokens of a file.
pub(super) fn tokens(file: &Source) -> Result<TokenStream, LintError> {
    TokenStream::from_str(&file.text).map_err(|error| LintError::Unparsable {
        path: file.path.clone(),
        line: error.span().start().line,
        message: error.to_string(),
    })
}

/// Lines that begin within a string.
pub(super) fn quoted_lines(tokens: TokenStream) -> BTreeSet<usize> {
    let mut lines = BTreeSet::new();
    for token in tokens {
        match token {
            TokenTree::Literal(text) => {
                let span = text.span();
                lines.extend(span.start().line + 1..=span.end().line);
            }
            TokenTree::Group(group) => lines.append(&mut quoted_lines(group.stream())),
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
    lines
}

/// Names and lines of functions under a test attribute or directly within `proptest!`.
pub(super) fn tests(tokens: TokenStream) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    collect(tokens, false, &mut found);
    found
}

fn collect(tokens: TokenStream, within_proptest: bool, found: &mut Vec<(String, usize)>) {
    let mut marked = false;
    let mut before = [String::new(), String::new()];
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match &token {
            TokenTree::Ident(word) if word == "fn" => {
                if let Some(TokenTree::Ident(name)) = tokens.peek()
                    && (marked || within_proptest)
                {
                    found.push((name.to_string(), name.span().start().line));
                }
                marked = false;
            }
            TokenTree::Group(group) if before[1] == "#" => marked |= is_test_attribute(group),
            TokenTree::Group(group) => {
                let proptest = before[0] == "proptest" && before[1] == "!";
                collect(group.stream(), proptest, found);
                marked &= group.delimiter() != Delimiter::Brace;
            }
            TokenTree::Punct(mark) if mark.as_char() == ';' => marked = false,
            _ => {}
        }
        let [_, last] = before;
        let text = match &token {
            TokenTree::Group(_) => String::new(),
            other => other.to_string(),
        };
        before = [last, text];
    }
}

/// Recognizes `[test]`, `[tokio::test]` and `[tokio::test(…)]`.
fn is_test_attribute(group: &Group) -> bool {
    let path = group.stream().into_iter().take_while(|token| match token {
        TokenTree::Ident(_) => true,
        TokenTree::Punct(mark) => mark.as_char() == ':',
        _ => false,
    });
    path.last().is_some_and(|last| last.to_string() == "test")
}
