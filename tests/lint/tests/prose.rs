//! The prose of small crates.

use std::path::PathBuf;

use longshore_lint::prose::{CrateProse, Kind, Share, violations};
use longshore_lint::{Crate, LintError, Source};

fn measure(text: &str) -> Result<CrateProse, LintError> {
    CrateProse::of(&Crate {
        name: "small".to_owned(),
        dir: PathBuf::from("small"),
        files: vec![Source {
            path: PathBuf::from("small/src/lib.rs"),
            text: text.to_owned(),
        }],
    })
}

fn of(text: &str) -> CrateProse {
    measure(text).expect("the text has tokens")
}

fn share(count: usize, total: usize) -> Share {
    Share { count, total }
}

#[test]
fn pronouns_in_doc_comment_are_counted() {
    let prose = of("//! A box that opens when its lid moves.\n/// It's one-sided.\nstruct Box;\n");
    assert_eq!(prose.doc_pronouns(), share(3, 10));
}

#[test]
fn pronouns_in_plain_comment_are_separate() {
    let prose = of("/// Box.\nstruct Box; // this trails\n// This and that.\n");
    assert_eq!(prose.doc_pronouns(), share(0, 1));
    assert_eq!(prose.plain_pronouns(), share(2, 3));
    assert_eq!(prose.all_pronouns(), share(2, 4));
}

#[test]
fn pronouns_in_code_and_targets_are_dropped() {
    let prose = of(concat!(
        "/// See [the box](crate::that) and `this` at https://which.example/what or\n",
        "/// ``one ` of it``.\n",
        "///\n",
        "/// ```\n",
        "/// let it = those(that);\n",
        "/// ```\n",
        "/// [the box]: crate::this\n",
        "struct Box;\n",
    ));
    assert_eq!(prose.doc_pronouns(), share(0, 6));
}

#[test]
fn comments_within_string_are_ignored() {
    let prose = of("const TEXT: &str = \"\n/// That is text.\n\";\n/// Box.\nstruct Box;\n");
    assert_eq!(prose.doc_pronouns(), share(0, 1));
}

#[test]
fn comment_lines_of_one_mark_join() {
    let prose =
        of("//! Top\n//! text.\n/// First.\nstruct A;\n\n/// Second.\n// Plain.\nstruct B;\n");
    let found: Vec<(usize, Kind)> = prose
        .comments
        .iter()
        .map(|one| (one.line, one.kind))
        .collect();
    let (doc, plain) = (Kind::Doc, Kind::Plain);
    assert_eq!(found, [(1, doc), (3, doc), (6, doc), (7, plain)]);
}

#[test]
fn opening_with_interrogative_is_counted() {
    let prose = of(concat!(
        "/// **Whether** the lid is open.\nfn a() {}\n",
        "/// How many lids.\nfn b() {}\n",
        "/// `What` is code.\nfn c() {}\n",
        "/// However wide the lid.\nfn d() {}\n",
        "/// Count of lids, and how many.\nfn e() {}\n",
        "// Why plain comments stay out.\n",
    ));
    assert_eq!(prose.interrogatives(), share(2, 5));
}

#[test]
fn test_names_under_attributes_are_found() {
    let prose = of(concat!(
        "#[test]\n#[should_panic(expected = \"x\")]\npub(crate) fn lid_opens() {}\n",
        "mod inner {\n",
        "    #[tokio::test(flavor = \"multi_thread\")]\n    async fn lid_shut_stays_shut() {}\n",
        "    fn helper_of_the_tests() {}\n",
        "}\n",
        "proptest! {\n",
        "    fn lid_any_angle_opens(angle in 0..90) { fn within_it() {} }\n",
        "}\n",
    ));
    let names: Vec<(&str, usize)> = prose
        .tests
        .iter()
        .map(|test| (test.name.as_str(), test.line))
        .collect();
    let expected = [
        ("lid_opens", 3),
        ("lid_shut_stays_shut", 6),
        ("lid_any_angle_opens", 10),
    ];
    assert_eq!(names, expected);
    assert!((prose.mean_name_words() - 10.0 / 3.0).abs() < 1e-9);
    assert_eq!(prose.longest_names().0, 4);
}

#[test]
fn goals_plain_prose_are_met() {
    let prose = of("/// A box with a lid.\nstruct Box;\n#[test]\nfn lid_opens() {}\n");
    assert_eq!(violations(&[prose]), Vec::<String>::new());
}

#[test]
fn goals_many_pronouns_are_missed() {
    let text = "/// That is what it does with its own lid.\nstruct Box;\n".repeat(20);
    assert_eq!(
        violations(&[of(&text)]),
        [
            "small: doc comments: 80 of 180 words are pronouns, 44.4 %, goal 5 %",
            "small: all comments: 80 of 180 words are pronouns, 44.4 %, goal 5 %",
        ]
    );
}

#[test]
fn goals_plain_pronouns_are_missed() {
    let text = "fn a() {\n// That is it.\n}\n".repeat(20);
    let missed = violations(&[of(&text)]);
    assert_eq!(
        missed,
        ["small: all comments: 40 of 60 words are pronouns, 66.7 %, goal 5 %"]
    );
}

#[test]
fn goals_few_words_allow_five_pronouns() {
    let line = "/// This.\nstruct A;\n";
    assert!(violations(&[of(&line.repeat(5))]).is_empty());
    assert!(!violations(&[of(&line.repeat(6))]).is_empty());
}

#[test]
fn goals_interrogative_openings_are_missed() {
    let text = "/// Whether the lid is open.\nfn a() {}\n".repeat(3);
    assert_eq!(
        violations(&[of(&text)]),
        ["small: doc comments: 3 of 3 open with an interrogative, 100.0 %, goal 7 %"]
    );
}

#[test]
fn goals_long_test_names_are_missed() {
    let seven = "#[test]\nfn a_b_c_d_e_f_g() {}\n".repeat(4);
    let ten = "#[test]\nfn a_b_c_d_e_f_g_h_i_j() {}\n";
    assert!(violations(&[of(&seven)]).is_empty());
    assert_eq!(
        violations(&[of(&format!("{seven}{ten}"))]),
        [
            "small: test names: 7.6 words in the mean of 5, goal 6",
            "small: small/src/lib.rs:10: 10 words in a test name, goal 9: a_b_c_d_e_f_g_h_i_j",
        ]
    );
}

#[test]
fn source_without_tokens_is_refused() {
    let error = measure("fn a() {\n").expect_err("a brace is open");
    let start = "cannot parse small/src/lib.rs:";
    assert!(error.to_string().starts_with(start), "{error}");
}
