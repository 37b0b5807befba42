//! Journals written, changed and replayed.

use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

use longshore_core::Dispatcher;
use longshore_core::config::Config;
use longshore_core::input::Input;
use longshore_core::time::Timestamp;
use longshore_journal::{Header, ReplayError, Step, Verdict, Writer, replay, replay_lines};

/// Journal of a program that still wrote `Operator`, `Impostor`, `taken_back` and `taken_back_at`.
const OLD_NAMES: &str = include_str!("fixtures/old-names.jsonl");

fn replay_text(text: &str) -> Result<Verdict, ReplayError> {
    replay_lines(BufReader::new(text.as_bytes()), |_| {}, |_| {})
}

fn same(steps: u64, commands: u64, cut_off: bool) -> Verdict {
    Verdict::Same {
        steps,
        commands,
        cut_off,
    }
}

/// Writes a journal of `steps` steps. Returns its path and the number of commands.
fn write(dir: &tempfile::TempDir, steps: u32) -> (PathBuf, u64) {
    let config = Config::default();
    let start = Timestamp::from_nanos(1_000_000_000);
    let header = Header::new(&config, [1; 32], start);
    let mut writer = Writer::create(dir.path(), &header).unwrap();
    let mut core = Dispatcher::new(config, header.seed, start);
    let mut count = 0;
    for step in 0..steps {
        let now = start + Duration::from_secs(120) * step;
        let inputs = vec![Input::Leadership {
            held: step % 2 == 0,
        }];
        let commands = Step::apply(&mut core, now, inputs.clone());
        count += commands.len() as u64;
        writer.step(Step::new(now, inputs, commands)).unwrap();
    }
    (writer.path, count)
}

#[test]
fn replay_written_journal_is_same() {
    let dir = tempfile::tempdir().unwrap();
    let (path, commands) = write(&dir, 4);
    assert!(commands > 0);
    let mut bytes = 0;
    let verdict = replay(&path, |read| bytes += read).unwrap();
    assert_eq!(verdict, same(4, commands, false));
    let text = std::fs::read_to_string(path).unwrap();
    let header = text.find('\n').unwrap() + 1;
    assert_eq!(bytes, (text.len() - header) as u64);
}

#[test]
fn replay_truncated_last_line_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(write(&dir, 3).0).unwrap();
    let verdict = replay_text(text.trim_end()).unwrap();
    assert!(matches!(
        verdict,
        Verdict::Same {
            steps: 2,
            cut_off: true,
            ..
        }
    ));
}

#[test]
fn replay_old_names_is_same() {
    for name in [
        "\"Operator\"",
        "\"Impostor\"",
        "\"taken_back\":true",
        "\"taken_back_at\":1",
    ] {
        assert!(OLD_NAMES.contains(name), "the fixture lacks {name}");
    }
    assert_eq!(replay_text(OLD_NAMES).unwrap(), same(32, 23, false));
}

#[test]
fn replay_changed_line_fails_check() {
    for (from, to, line) in [
        // Only a text for people: all commands stay the same.
        ("by hand", "by mistake", 22),
        // The same values in another spelling are another file.
        ("\"inputs\":[", "\"inputs\": [", 2),
        (
            "\"check\":\"a6258899d08b502d\"",
            "\"check\":\"a6258899d08b502e\"",
            33,
        ),
        (",\"check\":\"a6258899d08b502d\"", "", 33),
    ] {
        assert!(OLD_NAMES.contains(from), "the fixture lacks {from}");
        let error = replay_text(&OLD_NAMES.replacen(from, to, 1)).unwrap_err();
        assert!(
            matches!(error, ReplayError::Check { line: at } if at == line),
            "{from:?} replaced by {to:?}: {error:?}"
        );
    }
}

#[test]
fn replay_changed_header_fails_check() {
    let changed = OLD_NAMES.replacen("longshore 0.1.0", "longshore 0.1.1", 1);
    let error = replay_text(&changed).unwrap_err();
    assert!(matches!(error, ReplayError::Check { line: 2 }), "{error:?}");
}

#[test]
fn replay_lost_line_is_detected() {
    for index in 1..OLD_NAMES.lines().count() - 1 {
        let mut lines: Vec<&str> = OLD_NAMES.split_inclusive('\n').collect();
        lines.remove(index);
        let outcome = replay_text(&lines.concat());
        assert!(
            !matches!(outcome, Ok(Verdict::Same { .. })),
            "line {}: {outcome:?}",
            index + 1
        );
    }
}
