//! `longshore replay`.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use longshore_journal::{ReplayError, Verdict, replay};
use serde_json::json;

use crate::cli::ReplayArgs;
use crate::error::{CliError, CliResult, Context as _};

pub(crate) fn run(args: &ReplayArgs) -> CliResult {
    let name = args.file.display();
    let size = std::fs::metadata(&args.file).usage(&name)?.len();
    let bar = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{bar:40} {percent} % {eta}");
        ProgressBar::new(size).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    } else {
        ProgressBar::hidden()
    };
    let verdict = replay(&args.file, |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    match verdict {
        Ok(Verdict::Same {
            steps,
            commands,
            cut_off,
        }) => {
            if args.json.json {
                let report = json!({
                    "same": true, "steps": steps, "commands": commands, "cut_off": cut_off,
                });
                println!("{report}");
            } else {
                let tail = if cut_off {
                    "; the last line was cut off"
                } else {
                    ""
                };
                println!("{steps} steps replayed, all {commands} commands the same{tail}");
            }
            Ok(())
        }
        Ok(Verdict::Different {
            line,
            now,
            written,
            replayed,
        }) => {
            if args.json.json {
                let report = json!({
                    "same": false, "line": line, "now": now,
                    "written": written, "replayed": replayed,
                });
                println!("{report}");
            }
            let show = |command: &Option<_>| match command {
                Some(command) => serde_json::to_string(command).unwrap_or_default(),
                None => "nothing".to_owned(),
            };
            Err(CliError::failed(format!(
                "{name}: line {line}, at {now}: the first difference\n  written:  {}\n  replayed: {}",
                show(&written),
                show(&replayed),
            )))
        }
        Err(error @ (ReplayError::Check { .. } | ReplayError::TimeGoesBack { .. })) => {
            Err(CliError::failed(name.to_string()).because(error))
        }
        Err(error) => Err(CliError::usage(name.to_string()).because(error)),
    }
}
