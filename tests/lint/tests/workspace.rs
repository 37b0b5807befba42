//! The checks over this workspace.

use std::path::Path;

use longshore_lint::Workspace;
use longshore_lint::circles::CrateCircles;
use longshore_lint::prose::{CrateProse, violations};

fn workspace() -> Workspace {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Workspace::read(&root).expect("the workspace is readable")
}

#[test]
fn prose_workspace_meets_goals() {
    let crates = workspace().crates;
    let measured: Vec<CrateProse> = crates
        .iter()
        .map(|krate| CrateProse::of(krate).expect("the source has tokens"))
        .collect();
    let missed = violations(&measured);
    assert!(missed.is_empty(), "goals missed:\n{}", missed.join("\n"));
}

#[test]
fn imports_workspace_has_no_circles() {
    let found: Vec<String> = workspace()
        .crates
        .iter()
        .map(|krate| CrateCircles::of(krate, None).expect("the source is valid"))
        .flat_map(|krate| {
            let lines = krate.circles.iter();
            let lines: Vec<String> = lines.map(|one| format!("{}: {one}", krate.name)).collect();
            lines
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn walk_workspace_finds_every_member() {
    let crates = workspace().crates;
    let dirs: Vec<&str> = crates
        .iter()
        .filter_map(|krate| krate.dir.to_str())
        .collect();
    for member in [
        "adapters/daemon",
        "core",
        "fuzz",
        "sim",
        "tests",
        "tests/lint",
    ] {
        assert!(dirs.contains(&member), "{member} is among {dirs:?}");
    }
    let outer = crates.iter().find(|krate| krate.name == "longshore-tests");
    let files = &outer.expect("the package is there").files;
    assert!(
        files
            .iter()
            .all(|file| !file.path.starts_with("tests/lint"))
    );
}
