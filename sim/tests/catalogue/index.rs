//! Checks of `SCENARIOS.md`: completeness of the items and existence of every named test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::items;

/// Row of a table: item and references.
struct Row {
    item: String,
    shown: String,
}

fn simulator() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn index() -> String {
    fs::read_to_string(simulator().join("SCENARIOS.md")).expect("SCENARIOS.md is readable")
}

/// Rows of all tables of the index except the list of expected failures.
fn rows(index: &str) -> Vec<Row> {
    let (_, tables) = index
        .split_once("\n## Pain points")
        .expect("a heading of pain points");
    let rows = tables.lines().filter(|line| line.starts_with("| "));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [item, .., shown] = cells[..] else {
            panic!("row with too few cells: {line}")
        };
        let (item, shown) = (item.to_owned(), shown.to_owned());
        Row { item, shown }
    })
    .filter(|row| row.item != "item")
    .collect()
}

/// References in a cell, as file and test name.
fn references(cell: &str) -> Vec<(String, String)> {
    let quoted = cell.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|text| text.split_once("::"));
    named.map(|(f, n)| (f.to_owned(), n.to_owned())).collect()
}

/// Path of a file named in the index, relative to `sim/tests` or to the root of the workspace.
fn resolve(file: &str) -> PathBuf {
    let story = simulator().join("tests").join(file);
    if story.exists() {
        return story;
    }
    simulator().join("..").join(file)
}

/// Tests of a file by name, each with its text up to the next test.
fn tests_of(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut tests: BTreeMap<String, String> = BTreeMap::new();
    let (mut announced, mut current) = (false, None);
    for line in text.lines() {
        let line = line.trim();
        let attribute = line.starts_with("#[");
        announced |= attribute && (line.ends_with("test]") || line.contains("test("));
        let name = line
            .split_once("fn ")
            .and_then(|(_, rest)| rest.split_once('('));
        if let Some((name, _)) = name.filter(|_| !line.starts_with("//")) {
            if std::mem::take(&mut announced) {
                current = Some(name.to_owned());
                tests.insert(name.to_owned(), String::new());
            } else if !line.starts_with("let ") && !line.starts_with("move ") {
                current = None;
            }
        }
        if let Some(text) = current.as_ref().and_then(|name| tests.get_mut(name)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    tests
}

/// Files of the catalogue with scenarios.
fn catalogue() -> Vec<PathBuf> {
    let entries =
        fs::read_dir(simulator().join("tests/catalogue")).expect("directory sim/tests/catalogue");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let other = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        !["main.rs", "index.rs", "items.rs"]
            .iter()
            .any(|other| name == *other)
    };
    let mut paths: Vec<PathBuf> = paths.filter(other).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    format!("catalogue/{}", name.to_string_lossy())
}

#[test]
fn items_complete_and_unique() {
    let index = index();
    let mut found: Vec<String> = rows(&index).into_iter().map(|row| row.item).collect();
    let mut wanted = items::all();
    found.sort();
    wanted.sort();
    let known: BTreeSet<&String> = wanted.iter().collect();
    let distinct: BTreeSet<&String> = found.iter().collect();
    let missing: Vec<_> = known.difference(&distinct).collect();
    let unknown: Vec<_> = distinct.difference(&known).collect();
    assert!(missing.is_empty(), "not in SCENARIOS.md: {missing:?}");
    assert!(unknown.is_empty(), "unknown items: {unknown:?}");
    assert_eq!(found.len(), distinct.len(), "duplicate item");
}

#[test]
fn references_name_existing_tests() {
    for row in rows(&index()) {
        let named = references(&row.shown);
        if row.shown.starts_with("impossible here") {
            assert!(
                row.shown.contains("because"),
                "{}: no reason given",
                row.item
            );
        } else if !row.shown.starts_with("not built yet") {
            assert!(!named.is_empty(), "{} names no test", row.item);
        }
        for (file, name) in named {
            let path = resolve(&file);
            assert!(path.exists(), "{}: no file {file}", row.item);
            let known = tests_of(&path).contains_key(&name);
            assert!(known, "{}: {file} has no test {name}", row.item);
        }
    }
}

#[test]
fn catalogue_tests_all_indexed() {
    let named: BTreeSet<(String, String)> = rows(&index())
        .iter()
        .flat_map(|row| references(&row.shown))
        .collect();
    for path in catalogue() {
        let file = name_of(&path);
        for test in tests_of(&path).into_keys() {
            let reference = (file.clone(), test);
            assert!(
                named.contains(&reference),
                "{}::{} is in no row",
                reference.0,
                reference.1
            );
        }
    }
}

#[test]
fn catalogue_tests_document_source() {
    for path in catalogue() {
        let text = fs::read_to_string(&path).expect("readable");
        let all: Vec<&str> = text.lines().collect();
        for (number, line) in all.iter().enumerate() {
            if line.trim() == "#[test]" {
                let documented = number > 0 && all[number - 1].starts_with("///");
                assert!(
                    documented,
                    "{}:{} has no doc comment with the source",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn expected_failures_listed_and_counted() {
    let index = index();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for path in catalogue() {
        let failing = tests_of(&path).into_iter();
        let failing = failing.filter(|(_, text)| text.contains("expected_to_fail("));
        wanted.extend(failing.map(|(name, _)| format!("`{}::{name}`", name_of(&path))));
    }
    let not_built = rows(&index).into_iter();
    let not_built = not_built.filter(|row| row.shown.starts_with("not built yet"));
    wanted.extend(not_built.map(|row| row.item));
    let (_, list) = index
        .split_once("\n## Expected to fail: ")
        .expect("a list of expected failures");
    let (count, list) = list.split_once('\n').expect("lines of the list");
    let (list, _) = list.split_once("\n## ").expect("end of the list");
    let found: BTreeSet<String> = list
        .lines()
        .filter_map(|line| line.strip_prefix("- "))
        .map(|line| line.split(" — ").next().unwrap_or(line).to_owned())
        .collect();
    assert_eq!(found, wanted);
    assert_eq!(
        count.trim(),
        wanted.len().to_string(),
        "count in the heading of the list"
    );
}
