//! YAML text as an ordered tree with line numbers.
//!
//! Duplicate keys are kept, so that the reader can report each with its path. Numbers keep the
//! written digits, so that money never passes through a binary fraction.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};

use super::report::ConfigError;

/// Node of the tree.
#[derive(Clone)]
pub(super) struct Tree {
    /// Line, counted from 1.
    pub(super) line: u64,
    /// Value.
    pub(super) node: Node,
    /// Byte range of the node in the text; used for numbers.
    bytes: Option<Range<usize>>,
}

/// Value of a node.
#[derive(Clone)]
pub(super) enum Node {
    Null,
    Bool(bool),
    /// Decimal text of a number; other text for YAML numbers without decimal notation.
    Number(String),
    Text(String),
    List(Vec<Tree>),
    /// Entries in the order of the text.
    Map(Vec<(Key, Tree)>),
}

/// Key of a map.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) text: String,
    /// Line, counted from 1.
    pub(super) line: u64,
}

impl Tree {
    /// Reads one YAML document.
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_documents: 1 },
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            non_finite_float_policy: NonFiniteFloatPolicy::AsString,
            // Token-like values such as 007 or 12_34 are text, not numbers.
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            emit_comments: false,
            // Snippets of the file could show secrets.
            with_snippet: false,
        };
        let mut tree: Self =
            serde_saphyr::from_str_with_options(text, options).map_err(|e| syntax_error(&e))?;
        tree.restore_decimals(text);
        Ok(tree)
    }

    /// Restores the written digits of fractions rounded by the YAML parser.
    fn restore_decimals(&mut self, source: &str) {
        match &mut self.node {
            Node::Number(number) => {
                let written = self.bytes.clone().and_then(|bytes| source.get(bytes));
                if let Some(written) = written.map(str::trim)
                    && longshore_units::Decimal::parse(written).is_some()
                {
                    written.clone_into(number);
                }
            }
            Node::List(items) => items.iter_mut().for_each(|t| t.restore_decimals(source)),
            Node::Map(entries) => entries
                .iter_mut()
                .for_each(|(_, t)| t.restore_decimals(source)),
            Node::Null | Node::Bool(_) | Node::Text(_) => {}
        }
    }

    /// Converts to JSON. Of duplicate keys the last one counts.
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.node {
            Node::Null => Value::Null,
            Node::Bool(b) => Value::Bool(*b),
            Node::Number(text) => {
                serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()))
            }
            Node::Text(text) => Value::String(text.clone()),
            Node::List(items) => items.iter().map(Self::to_json).collect(),
            Node::Map(entries) => entries
                .iter()
                .map(|(k, v)| (k.text.clone(), v.to_json()))
                .collect(),
        }
    }
}

/// Converts an error of the parser; nothing of the file but a line number gets into the text.
fn syntax_error(error: &serde_saphyr::Error) -> ConfigError {
    use serde_saphyr::Error as E;
    let reason = match error {
        // Messages of the scanner are fixed texts.
        E::ExternalMessage { msg, .. } => msg.clone(),
        E::Eof { .. } => "the file is empty; it must begin with Clusters:".into(),
        E::MultipleDocuments { .. } => "more than one document; keep one".into(),
        E::UnknownAnchor { .. } => "an alias (*name) without its anchor (&name)".into(),
        E::NullIntoString { .. } => "a key is null; write a name or delete the entry".into(),
        E::Budget { .. } => "too large, or nested too deeply".into(),
        _ => "not a tree of sections, lists and plain values; check the indentation here".into(),
    };
    let line = error.location().map(|l| l.line()).filter(|l| *l > 0);
    ConfigError::Syntax { line, reason }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(from)?;
        let span = spanned.defined.span();
        let start = span.byte_offset().and_then(|n| usize::try_from(n).ok());
        let len = span.byte_len().and_then(|n| usize::try_from(n).ok());
        Ok(Self {
            line: spanned.referenced.line(),
            bytes: start
                .zip(len)
                .map(|(start, len)| start..start.saturating_add(len)),
            node: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section, a list or a plain value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let line = key.referenced.line();
            let text = key.value;
            entries.push((Key { text, line }, map.next_value()?));
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> String {
        let tree = Tree::parse(text).unwrap_or_else(|e| panic!("{e}"));
        match tree.node {
            Node::Map(entries) => match &entries[0].1.node {
                Node::Number(number) => number.clone(),
                _ => panic!("not a number"),
            },
            _ => panic!("not a map"),
        }
    }

    #[test]
    fn fractions_keep_written_digits() {
        assert_eq!(
            number("a: 0.12345678901234567891  # note\n"),
            "0.12345678901234567891"
        );
        assert_eq!(number("é: 1e-3\n"), "1e-3");
        assert_eq!(number("{é: 99999999999999999999}"), "99999999999999999999");
        assert_eq!(number("a: 0x10"), "16");
    }

    #[test]
    fn nodes_have_lines_of_text() {
        let tree = Tree::parse("# head\na:\n  - 1\n  - b: x\n").unwrap_or_else(|e| panic!("{e}"));
        let Node::Map(entries) = tree.node else {
            panic!()
        };
        assert_eq!(entries[0].0.line, 2);
        let Node::List(items) = &entries[0].1.node else {
            panic!()
        };
        assert_eq!((items[0].line, items[1].line), (3, 4));
    }

    #[test]
    fn syntax_error_shows_line_without_text() {
        for wrong in [
            "a: b\n c: hunter2: [\n",
            "a: *hunter2\n",
            "a: [hunter2\n",
            "a: 'hunter2\n",
            "? [hunter2]\n: 1\n",
            "a: !!int hunter2\n",
            "a: !!bool hunter2\n",
            "<<: hunter2\n",
            "hunter2\n---\nhunter2\n",
            "~: hunter2\n",
            "a: \"\\hunter2\"\n",
            "a: !x!hunter2 1\n",
        ] {
            let error = Tree::parse(wrong).err().map(|e| format!("{e} {e:?}"));
            let error = error.unwrap_or_else(|| panic!("accepted {wrong:?}"));
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("line"), "{error}");
        }
    }
}
