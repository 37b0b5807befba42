//! Import circles of small crates.

use std::path::PathBuf;

use longshore_lint::circles::{Arrows, CrateCircles};
use longshore_lint::{Crate, LintError, Source};

fn follow(files: &[(&str, &str)], depth: Option<usize>) -> Result<CrateCircles, LintError> {
    let files = files.iter().map(|(path, text)| Source {
        path: PathBuf::from("small/src").join(path),
        text: (*text).to_owned(),
    });
    let krate = Crate {
        name: "small".to_owned(),
        dir: PathBuf::from("small"),
        files: files.collect(),
    };
    CrateCircles::of(&krate, depth)
}

fn of(files: &[(&str, &str)]) -> CrateCircles {
    follow(files, None).expect("the source is valid")
}

/// Members of all circles among `a` and `b`, where `b` has the given text and `a` uses `b`.
fn with_text_in_b(text: &str) -> Vec<Vec<String>> {
    let found = of(&[
        ("lib.rs", "mod a; mod b; pub use a::A; pub use b::B;"),
        (
            "a.rs",
            "use crate::b::B; pub struct A(B); pub mod deep { pub struct D; }",
        ),
        ("b.rs", text),
    ]);
    found.circles.into_iter().map(|one| one.members).collect()
}

#[test]
fn circle_of_two_is_found() {
    let found = of(&[
        ("lib.rs", "mod a;\nmod b;"),
        ("a.rs", "use crate::b::B;\npub struct A(B);"),
        ("b.rs", "\nuse super::a;\npub struct B(a::A);"),
    ]);
    let [circle] = found.circles.as_slice() else {
        panic!("one circle: {found:?}");
    };
    assert_eq!(
        circle.to_string(),
        concat!(
            "2 modules in a circle: a, b\n",
            "    a -> b at small/src/a.rs:1\n",
            "    b -> a at small/src/b.rs:2",
        )
    );
    let arrows = Arrows {
        modules: 3,
        edges: 2,
        kin: 0,
    };
    assert_eq!(found.arrows, arrows);
}

#[test]
fn circle_by_any_path_is_found() {
    for text in [
        "use crate::a::A;",
        "use crate::{a::{self, A}};",
        "use super::a as other;",
        "use super::*; fn f() { a::f() }",
        "pub struct B(crate::a::A);",
        "impl crate::a::Open for B {}",
        "fn f() { super::a::f() }",
        "fn f() { use crate::a::*; }",
        "fn f() { let x = vec![crate::a::f()]; }",
        "#[serde(with = \"crate::a\")] struct B;",
        "macro_rules! m { () => { $crate::a::f() } }",
    ] {
        assert_eq!(with_text_in_b(text), [["a", "b"]], "{text}");
    }
}

#[test]
fn circle_without_reference_is_absent() {
    for text in [
        "use crate::A;",
        "use other::a::A;",
        "use ::a::A;",
        "/// See [`crate::a::A`].\npub struct B;",
        "pub(in crate::a) struct B;",
        "#[cfg(test)] use crate::a::A;",
        "#[cfg(test)] mod tests { use crate::a::A; }",
        "#[cfg(all(test, unix))] fn f() { crate::a::f() }",
        "impl B { #[cfg(test)] fn f() { crate::a::f() } }",
    ] {
        assert_eq!(with_text_in_b(text), Vec::<Vec<String>>::new(), "{text}");
    }
}

#[test]
fn circle_of_kin_is_ignored() {
    let found = of(&[
        ("lib.rs", "mod a;"),
        ("a.rs", "mod b; mod c; use b::B; pub use self::c::C;"),
        ("a/b.rs", "use super::C; pub mod d { use crate::a::b::B; }"),
        ("a/c.rs", "pub struct C;"),
    ]);
    assert!(found.circles.is_empty(), "{found:?}");
    let arrows = Arrows {
        modules: 5,
        edges: 4,
        kin: 4,
    };
    assert_eq!(found.arrows, arrows);
}

#[test]
fn circle_of_deep_modules_names_deepest() {
    let found = of(&[
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "pub mod x { pub struct X(crate::b::y::Y); }"),
        ("b.rs", "pub mod y;"),
        ("b/y.rs", "pub struct Y(super::super::a::x::X);"),
    ]);
    assert_eq!(found.circles[0].members, ["a::x", "b::y"]);
}

#[test]
fn circle_of_folders_appears_at_depth() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "pub mod p { use crate::b::r; } pub mod q {}"),
        ("b.rs", "pub mod r {} pub mod s { use crate::a::q; }"),
    ];
    assert!(of(&files).circles.is_empty());
    let folders = follow(&files, Some(1)).expect("the source is valid");
    assert_eq!(folders.circles[0].members, ["a", "b"]);
}

#[test]
fn example_in_large_circle_is_shortest() {
    let found = of(&[(
        "main.rs",
        concat!(
            "mod a { use crate::b::B; }\n",
            "mod b { use crate::c::C; }\n",
            "mod c { use crate::{a::A, d::D}; }\n",
            "mod d { use crate::c::C; }\n",
            "mod e { use crate::a::A; }\n",
        ),
    )]);
    let [circle] = found.circles.as_slice() else {
        panic!("one circle: {found:?}");
    };
    let members = ["(main)::a", "(main)::b", "(main)::c", "(main)::d"];
    assert_eq!(circle.members, members);
    assert_eq!(circle.example.len(), 2);
}

#[test]
fn module_without_file_is_refused() {
    let error = follow(&[("lib.rs", "\nmod a;")], None).expect_err("no file");
    let message = "small/src/lib.rs:2: no file for module `a`";
    assert_eq!(error.to_string(), message);
}

#[test]
fn source_without_syntax_is_refused() {
    let error = follow(&[("lib.rs", "struct;")], None).expect_err("no name");
    let start = "cannot parse small/src/lib.rs:1: ";
    assert!(error.to_string().starts_with(start), "{error}");
}
