//! The checks of the Markdown pages: paths and links exist, the README is short.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"))
}

/// Pages at the root and in `docs`, relative to the root.
fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).expect("docs is readable") {
        let name = entry.expect("docs is readable").file_name();
        let name = name.to_string_lossy().into_owned();
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    pages.sort();
    pages
}

/// Text outside of fenced blocks.
fn prose(page: &str) -> String {
    let outside = page.split("```").step_by(2);
    outside.collect::<Vec<_>>().join("\n")
}

/// Paths in backticks: text that begins with a folder of the repository, without pattern or option.
/// Of `folder/file.rs::test_name`, the part before the colons.
fn paths(page: &str) -> Vec<String> {
    const FOLDERS: [&str; 8] = [
        ".ci/",
        "adapters/",
        "benches/",
        "core/",
        "docs/",
        "fuzz/",
        "sim/",
        "tests/",
    ];
    let page = prose(page);
    let quoted = page.split('`').skip(1).step_by(2);
    let quoted = quoted.map(|text| text.split("::").next().unwrap_or_default());
    let is_path = |text: &&str| {
        let folder = FOLDERS.iter().any(|folder| text.starts_with(folder));
        folder && !text.contains([' ', '*', '…', '<', '{'])
    };
    quoted.filter(is_path).map(str::to_owned).collect()
}

/// Targets of links to files, relative to the page.
fn links(page: &str) -> Vec<String> {
    let page = prose(page);
    let targets = page.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    let targets = targets.filter(|target| !target.contains(':') && !target.starts_with('#'));
    targets
        .map(|target| target.split('#').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn docs_paths_in_backticks_exist() {
    let missing: Vec<String> = pages()
        .iter()
        .flat_map(|page| {
            let absent = paths(&read(page)).into_iter();
            let absent = absent.filter(|path| !root().join(path).exists());
            absent
                .map(|path| format!("{page}: {path}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(missing.is_empty(), "no such file:\n{}", missing.join("\n"));
}

#[test]
fn docs_links_lead_to_files() {
    let missing: Vec<String> = pages()
        .iter()
        .flat_map(|page| {
            let dir = root().join(page);
            let dir = dir.parent().expect("a page is in a folder").to_owned();
            let absent = links(&read(page)).into_iter();
            let absent = absent.filter(|target| !dir.join(target).exists());
            absent
                .map(|target| format!("{page}: {target}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(missing.is_empty(), "no such file:\n{}", missing.join("\n"));
}

#[test]
fn readme_has_fewer_than_900_words() {
    let words = read("README.md").split_whitespace().count();
    assert!(words < 900, "{words} words");
}

#[test]
fn architecture_first_line_names_main() {
    let page = read("ARCHITECTURE.md");
    let first = page
        .lines()
        .find(|line| !line.is_empty() && !line.starts_with('#'));
    let first = first.expect("the page has text");
    assert!(
        first.contains("`main`") && first.contains("adapters/daemon/src/main.rs"),
        "{first}"
    );
}

#[test]
fn paths_skip_patterns_and_fenced_blocks() {
    let page = "`core/src/a.rs` `core/src/*.rs` `sim/x.rs::test`\n```\n`core/b.rs`\n```\n`a/b`";
    assert_eq!(paths(page), ["core/src/a.rs", "sim/x.rs"]);
    let page = "[a](b.md#part) [c](https://d) [e](#f) ![g](h.svg)";
    assert_eq!(links(page), ["b.md", "h.svg"]);
}
