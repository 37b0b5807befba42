//! Reads typed values from the tree, each with its path, and records the keys asked for. All other
//! keys are unknown, so no list of known keys can differ from the code.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::time::Duration;

use longshore_units::{Decimal, Rounding, SignedDuration};

use super::report::{ConfigError, ConfigWarning};
use super::tree::{Key, Node, Tree};

/// Collects errors and warnings.
#[derive(Default)]
pub(super) struct Report {
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigWarning>>,
    #[cfg(test)]
    pub(super) recorded: RefCell<Recorded>,
}

/// Paths of all keys asked for or ignored.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Recorded {
    /// Keys asked for.
    pub(super) asked: BTreeSet<String>,
    /// Keys of other programs.
    pub(super) ignored: BTreeSet<String>,
}

impl Report {
    pub(super) fn error(&self, error: ConfigError) {
        self.errors.borrow_mut().push(error);
    }

    pub(super) fn warn(&self, path: &str, line: Option<u64>, message: String) {
        self.warnings.borrow_mut().push(ConfigWarning {
            path: path.to_owned(),
            line,
            message,
        });
    }

    /// Takes all errors and all warnings, sorted by line.
    pub(super) fn take(&self) -> (Vec<ConfigError>, Vec<ConfigWarning>) {
        let (mut errors, mut warnings) = (self.errors.take(), self.warnings.take());
        errors.sort_by_key(ConfigError::line);
        warnings.sort_by_key(|warning| warning.line);
        (errors, warnings)
    }
}

/// Treatment of unknown keys in a section.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UnknownKeys {
    /// Warns of each: no other program has keys in this section.
    Warn,
    /// Warns only of likely typos: other programs have keys here too.
    WarnIfSimilar,
}

/// Map of the file; empty if absent.
pub(super) struct Section<'a> {
    path: String,
    line: Option<u64>,
    entries: Vec<(&'a Key, &'a Tree)>,
    asked: RefCell<BTreeSet<&'static str>>,
    ignored: RefCell<BTreeSet<&'static str>>,
    report: &'a Report,
}

/// Value of the file, with its path.
pub(super) struct Entry<'a> {
    pub(super) path: String,
    tree: &'a Tree,
    report: &'a Report,
}

impl<'a> Section<'a> {
    /// Root of a file; any other value than a map is an error.
    pub(super) fn root(tree: &'a Tree, report: &'a Report) -> Self {
        Entry {
            path: String::new(),
            tree,
            report,
        }
        .section()
    }

    pub(super) fn report(&self) -> &'a Report {
        self.report
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Value of a key; `None` if absent or null.
    pub(super) fn get(&self, key: &'static str) -> Option<Entry<'a>> {
        self.asked.borrow_mut().insert(key);
        let (_, tree) = self.entries.iter().find(|(k, _)| k.text == key)?;
        if matches!(tree.node, Node::Null) {
            return None;
        }
        Some(Entry {
            path: self.path_of(key),
            tree,
            report: self.report,
        })
    }

    /// Accepts keys of other programs without a warning.
    pub(super) fn ignore(&self, keys: &[&'static str]) {
        self.ignored.borrow_mut().extend(keys);
    }

    /// Section below a key; empty if absent.
    pub(super) fn section(&self, key: &'static str) -> Section<'a> {
        match self.get(key) {
            Some(entry) => entry.section(),
            None => Section {
                path: self.path_of(key),
                line: self.line,
                entries: Vec::new(),
                asked: RefCell::default(),
                ignored: RefCell::default(),
                report: self.report,
            },
        }
    }

    /// All entries of a section with names chosen by the operator as keys, without `SAMPLE`.
    pub(super) fn named(&self) -> Vec<(&'a str, Entry<'a>)> {
        let entry = |&(key, tree): &(&'a Key, &'a Tree)| {
            let path = self.path_of(&key.text);
            let report = self.report;
            (key.text.as_str(), Entry { path, tree, report })
        };
        let real = self.entries.iter().filter(|(k, _)| k.text != "SAMPLE");
        real.map(entry).collect()
    }

    /// True if the key is absent or has an empty text.
    pub(super) fn is_blank(&self, key: &'static str) -> bool {
        let node = self.get(key).map(|entry| &entry.tree.node);
        node.is_none_or(|node| matches!(node, Node::Text(text) if text.is_empty()))
    }

    pub(super) fn text(&self, key: &'static str, default: &str) -> String {
        let text = self.get(key).and_then(|e| e.text());
        text.unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn bool(&self, key: &'static str, default: bool) -> bool {
        self.get(key).and_then(|e| e.bool()).unwrap_or(default)
    }

    /// Duration above zero; `fallback` if absent, zero or negative.
    pub(super) fn duration(&self, key: &'static str, fallback: Duration) -> Duration {
        match self.get(key).and_then(|e| e.duration()) {
            Some(d) if !d.negative && !d.amount.is_zero() => d.amount,
            _ => fallback,
        }
    }

    /// Duration of zero or more.
    pub(super) fn duration_or_zero(&self, key: &'static str, default: Duration) -> Duration {
        let Some(entry) = self.get(key) else {
            return default;
        };
        match entry.duration() {
            Some(d) if d.negative => {
                entry.wrong("a duration of 0 or more", "write it without the minus");
                default
            }
            Some(d) => d.amount,
            None => default,
        }
    }

    /// Size of 0 bytes or more.
    pub(super) fn bytes(&self, key: &'static str, default: u64) -> u64 {
        self.get(key).and_then(|e| e.bytes()).unwrap_or(default)
    }

    /// Whole number above zero; `None` for zero and less, which mean "no limit" or "off".
    pub(super) fn count_above_zero(&self, key: &'static str, default: u32) -> Option<u32> {
        let Some(entry) = self.get(key) else {
            return (default > 0).then_some(default);
        };
        let count = entry.whole(-i64::from(u32::MAX), i64::from(u32::MAX))?;
        u32::try_from(count).ok().filter(|n| *n > 0)
    }

    /// Whole number of at least `least`.
    pub(super) fn count(&self, key: &'static str, least: u32, default: u32) -> u32 {
        let entry = self.get(key);
        let count = entry.and_then(|e| e.whole(i64::from(least), i64::from(u32::MAX)));
        count.and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
    }

    /// Decimal of 0 or more in millionths, rounded to the nearest, halves up.
    pub(super) fn millionths(&self, key: &'static str, default: u64) -> u64 {
        let entry = self.get(key);
        entry.and_then(|e| e.millionths()).unwrap_or(default)
    }

    /// Decimal above zero in millionths; `None` for zero and less, which mean "off".
    pub(super) fn millionths_above_zero(&self, key: &'static str, default: u64) -> Option<u64> {
        let value = match self.get(key) {
            Some(entry) => entry.millionths_or_less()?,
            None => default,
        };
        (value > 0).then_some(value)
    }

    /// Reports duplicate keys at any depth.
    pub(super) fn report_duplicates(&self) {
        for (_, entry) in self.named() {
            entry.report_duplicates();
        }
    }

    /// One of the given words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let Some(entry) = self.get(key) else {
            return default;
        };
        let Some(text) = entry.text() else {
            return default;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let known = words.iter().map(|(word, _)| *word);
        let known: Vec<&str> = known.filter(|word| !word.is_empty()).collect();
        let advice = nearest(&text, &known).map_or_else(
            || "choose one of them".to_owned(),
            |word| format!("perhaps you meant {word}"),
        );
        entry.wrong(&format!("one of {}", known.join(", ")), &advice);
        default
    }

    /// Reports a missing required key.
    pub(super) fn missing(&self, key: &str, expected: &str, advice: &str) {
        self.report.error(ConfigError::Wrong {
            path: self.path_of(key),
            line: self.line,
            found: "nothing".into(),
            expected: expected.into(),
            advice: advice.into(),
        });
    }

    /// Warns of unknown keys. Must come after all reads of the section.
    pub(super) fn finish(self, unknown_keys: UnknownKeys) {
        let (asked, ignored) = (self.asked.take(), self.ignored.take());
        #[cfg(test)]
        self.record(&asked, &ignored);
        let known: Vec<&str> = asked.union(&ignored).copied().collect();
        for (key, _) in &self.entries {
            if known.contains(&key.text.as_str()) || key.text == "SAMPLE" {
                continue;
            }
            let similar = nearest(&key.text, &known);
            if unknown_keys == UnknownKeys::WarnIfSimilar
                && !similar.is_some_and(|s| is_likely_typo(&key.text, s))
            {
                continue;
            }
            let message = match similar {
                Some(name) if name.eq_ignore_ascii_case(&key.text) => format!(
                    "unknown key, ignored; perhaps you meant {name} (upper and lower case differ)"
                ),
                Some(name) => format!("unknown key, ignored; perhaps you meant {name}"),
                None => "unknown or outdated key, ignored; delete it".to_owned(),
            };
            let path = join(&self.path, &key.text);
            self.report.warn(&path, Some(key.line), message);
        }
    }

    #[cfg(test)]
    fn record(&self, asked: &BTreeSet<&str>, ignored: &BTreeSet<&str>) {
        let mut recorded = self.report.recorded.borrow_mut();
        let path = |key: &&str| self.path_of(key);
        recorded.asked.extend(asked.iter().map(path));
        recorded.ignored.extend(ignored.iter().map(path));
    }
}

impl<'a> Entry<'a> {
    pub(super) fn line(&self) -> u64 {
        self.tree.line
    }

    /// Map at this entry. Any other value is an error, and so is a duplicate key.
    pub(super) fn section(&self) -> Section<'a> {
        let mut entries: Vec<(&Key, &Tree)> = Vec::new();
        match &self.tree.node {
            Node::Map(all) => {
                let mut first_lines = BTreeMap::new();
                for (key, tree) in all {
                    match first_lines.entry(&key.text) {
                        btree_map::Entry::Vacant(first) => {
                            first.insert(key.line);
                            entries.push((key, tree));
                        }
                        btree_map::Entry::Occupied(first) => {
                            self.report.error(ConfigError::Duplicate {
                                path: join(&self.path, &key.text),
                                line: key.line,
                                first_line: *first.get(),
                            });
                        }
                    }
                }
            }
            Node::Null => {}
            _ => self.wrong_kind("a section (name: value lines)", "indent its keys below it"),
        }
        Section {
            path: self.path.clone(),
            line: Some(self.tree.line),
            entries,
            asked: RefCell::default(),
            ignored: RefCell::default(),
            report: self.report,
        }
    }

    /// True for a map.
    pub(super) fn is_section(&self) -> bool {
        matches!(self.tree.node, Node::Map(_))
    }

    /// Items of the list at this entry; any other value is an error.
    pub(super) fn list(&self) -> Vec<Entry<'a>> {
        let Node::List(items) = &self.tree.node else {
            self.wrong_kind("a list", "write one item a line, each after \"- \"");
            return Vec::new();
        };
        let item = |(i, tree)| Entry {
            path: format!("{}[{i}]", self.path),
            tree,
            report: self.report,
        };
        items.iter().enumerate().map(item).collect()
    }

    pub(super) fn text(&self) -> Option<String> {
        match &self.tree.node {
            Node::Text(text) => Some(text.clone()),
            Node::Number(_) | Node::Bool(_) => {
                self.wrong("text", "put it into quotes");
                None
            }
            _ => {
                self.wrong_kind("text", "write it on one line, in quotes");
                None
            }
        }
    }

    /// Text, or a number as text.
    pub(super) fn text_or_number(&self) -> Option<String> {
        match &self.tree.node {
            Node::Number(text) => Some(text.clone()),
            _ => self.text(),
        }
    }

    /// Text never shown in errors.
    pub(super) fn secret_text(&self) -> Option<&'a str> {
        match &self.tree.node {
            Node::Text(text) => Some(text),
            _ => {
                self.wrong_kind("text", "put it into quotes");
                None
            }
        }
    }

    pub(super) fn bool(&self) -> Option<bool> {
        match &self.tree.node {
            Node::Bool(value) => Some(*value),
            _ => {
                self.wrong("true or false", "write true or false, without quotes");
                None
            }
        }
    }

    fn duration(&self) -> Option<SignedDuration> {
        const EXPECTED: &str = "a duration such as 10s, 1h30m or 300ms";
        match &self.tree.node {
            Node::Text(text) => {
                let duration = longshore_units::parse_signed_duration(text);
                if let Err(why) = duration {
                    self.wrong(
                        EXPECTED,
                        &format!("{why}: write numbers with h, m, s or ms"),
                    );
                }
                duration.ok()
            }
            Node::Number(text) if Decimal::parse(text).is_some_and(Decimal::is_zero) => {
                Some(SignedDuration {
                    negative: false,
                    amount: Duration::ZERO,
                })
            }
            Node::Number(_) => {
                self.wrong(EXPECTED, "missing unit: write h, m, s or ms after it");
                None
            }
            _ => {
                self.wrong(EXPECTED, "write a number with its unit");
                None
            }
        }
    }

    /// Size of 0 bytes or more. Digits in quotes are a size too; the peer silently ignores such a
    /// value.
    pub(super) fn bytes(&self) -> Option<u64> {
        const EXPECTED: &str = "a size such as 4000000000, 64MiB or 1.5GB";
        let parsed = match &self.tree.node {
            Node::Text(text) => longshore_units::parse_signed_byte_size(text),
            Node::Number(text) => match Decimal::parse(text) {
                Some(decimal) if decimal.times(1, Rounding::Exact).is_none() => {
                    Err("not a whole number of bytes, or too large")
                }
                _ => longshore_units::parse_signed_byte_size(text),
            },
            _ => Err("not a number"),
        };
        match parsed.map(u64::try_from) {
            Ok(Ok(bytes)) => Some(bytes),
            Ok(Err(_)) => {
                self.wrong("a size of 0 or more", "write it without the minus");
                None
            }
            Err(why) => {
                let units =
                    "units are K, M, G, T, P, E and Ki, Mi, Gi, Ti, Pi, Ei, with or without B";
                self.wrong(EXPECTED, &format!("{why}: {units}"));
                None
            }
        }
    }

    fn decimal(&self, expected: &str) -> Option<Decimal> {
        let decimal = match &self.tree.node {
            Node::Number(text) => Decimal::parse(text),
            _ => None,
        };
        if decimal.is_none() {
            self.wrong(expected, "write digits, without quotes");
        }
        decimal
    }

    /// Whole number between `least` and `most`, inclusive.
    pub(super) fn whole(&self, least: i64, most: i64) -> Option<i64> {
        let expected = if least > 0 || (least == 0 && most == i64::from(u32::MAX)) {
            format!("a whole number from {least} to {most}")
        } else {
            format!("a whole number up to {most}")
        };
        let decimal = self.decimal(&expected)?;
        let amount = decimal.times(1, Rounding::Exact);
        let amount = amount.and_then(|n| i64::try_from(n).ok());
        let number = amount.map(|n| if decimal.is_negative() { -n } else { n });
        if let Some(number) = number.filter(|n| (least..=most).contains(n)) {
            return Some(number);
        }
        self.wrong(&expected, "write such a number");
        None
    }

    /// Decimal in millionths; 0 for negative numbers.
    fn millionths_or_less(&self) -> Option<u64> {
        match &self.tree.node {
            Node::Number(text) if Decimal::parse(text).is_some_and(Decimal::is_negative) => Some(0),
            _ => self.millionths(),
        }
    }

    fn report_duplicates(&self) {
        match &self.tree.node {
            Node::Map(_) => self.section().report_duplicates(),
            Node::List(_) => self.list().iter().for_each(Entry::report_duplicates),
            _ => {}
        }
    }

    fn millionths(&self) -> Option<u64> {
        const EXPECTED: &str = "a number of 0 or more, such as 1.5";
        let decimal = self.decimal(EXPECTED)?;
        let millionths = decimal.times(1_000_000, Rounding::Nearest);
        let millionths = millionths.and_then(|n| u64::try_from(n).ok());
        if millionths.is_none() || decimal.is_negative() {
            self.wrong(EXPECTED, "write such a number");
            return None;
        }
        millionths
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        self.tree.to_json()
    }

    /// Reports an error with the value found.
    pub(super) fn wrong(&self, expected: &str, advice: &str) {
        let found = match &self.tree.node {
            Node::Bool(value) => value.to_string(),
            Node::Number(text) => text.clone(),
            Node::Text(text) => {
                let short: String = text.chars().take(60).collect();
                let more = if short.len() < text.len() { "…" } else { "" };
                format!("{short:?}{more}")
            }
            _ => self.kind().to_owned(),
        };
        self.wrong_as(found, expected, advice);
    }

    /// Reports an error with the kind of the value only.
    pub(super) fn wrong_kind(&self, expected: &str, advice: &str) {
        self.wrong_as(self.kind().to_owned(), expected, advice);
    }

    /// Reports an error with a description given by the caller.
    pub(super) fn wrong_as(&self, found: String, expected: &str, advice: &str) {
        self.report.error(ConfigError::Wrong {
            path: self.path.clone(),
            line: Some(self.tree.line),
            found,
            expected: expected.to_owned(),
            advice: advice.to_owned(),
        });
    }

    fn kind(&self) -> &'static str {
        match &self.tree.node {
            Node::Null => "nothing",
            Node::Bool(_) => "true or false",
            Node::Number(_) => "a number",
            Node::Text(_) => "text",
            Node::List(_) => "a list",
            Node::Map(_) => "a section",
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Finds the most similar of `known`, at an edit distance of at most a third of its length.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let exact = known.iter().find(|k| k.eq_ignore_ascii_case(name));
    let distance = |k: &str| strsim::damerau_levenshtein(k, name);
    let similar = known
        .iter()
        .filter(|k| distance(k) <= (k.len() / 3).max(1))
        .min_by_key(|k| distance(k));
    exact.or(similar).copied()
}

/// True if `name` is probably a misspelt `known`, in a section shared with other programs.
fn is_likely_typo(name: &str, known: &str) -> bool {
    name.eq_ignore_ascii_case(known)
        || (known.len() >= 6 && strsim::damerau_levenshtein(name, known) <= 2)
}
