//! Parser for the output of the runner's `--list`.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::ids::ContainerId;
use longshore_core::input::{RunnerList, RunnerStatus};
use longshore_core::time::Timestamp;

/// Parses the output of the runner's `--list`. A line is `broken`; `preempted` and a Unix time
/// after a preemption notice of the cloud (only written by the Longshore runner, skipped by other
/// readers); or the uuid of a container, alone or followed by `stale`.
///
/// Lines without the prefix `cluster_id` belong to other clusters. A second word other than `stale`
/// is ignored: the runner exists in any case.
#[must_use]
pub fn parse_list(text: &str, cluster_id: &str) -> RunnerList {
    let mut broken = false;
    let mut preempted_at = None;
    let mut stale_by_container = BTreeMap::new();
    for line in text.lines().map(str::trim_end) {
        if line == "broken" {
            broken = true;
            continue;
        }
        if let Some(time) = line.strip_prefix("preempted ") {
            let at = time.parse().map(Duration::from_secs).ok();
            preempted_at = preempted_at.max(at.map(|at| Timestamp::EPOCH + at));
            continue;
        }
        if !line.starts_with(cluster_id) {
            continue;
        }
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(container)) = words.next().map(str::parse::<ContainerId>) else {
            continue;
        };
        let stale = words.next() == Some("stale");
        // A live runner takes precedence if lines contradict each other.
        stale_by_container
            .entry(container)
            .and_modify(|known| *known &= stale)
            .or_insert(stale);
    }
    RunnerList {
        broken,
        preempted_at,
        runners: stale_by_container
            .into_iter()
            .map(|(container, stale)| RunnerStatus { container, stale })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "zzzzz-dz642-aaaaaaaaaaaaaaa";
    const B: &str = "zzzzz-dz642-bbbbbbbbbbbbbbb";
    const FOREIGN: &str = "yyyyy-dz642-aaaaaaaaaaaaaaa";

    fn status(id: &str, stale: bool) -> RunnerStatus {
        RunnerStatus {
            container: id.parse().unwrap(),
            stale,
        }
    }

    #[test]
    fn list_has_live_stale_and_broken() {
        let list = parse_list(&format!("broken\n{B} stale\n\n{A}\n"), "zzzzz");
        assert!(list.broken);
        assert_eq!(list.runners, [status(A, false), status(B, true)]);
        assert_eq!(parse_list("", "zzzzz"), RunnerList::default());
    }

    #[test]
    fn list_has_preemption_time() {
        let list = parse_list(&format!("preempted 1700000120\n{A}\n"), "zzzzz");
        let at = Timestamp::EPOCH + Duration::from_secs(1_700_000_120);
        assert_eq!(list.preempted_at, Some(at));
        assert_eq!(list.runners, [status(A, false)]);
        for odd in [
            "preempted",
            "preempted soon",
            "preempted -1",
            "preempted 1 2",
        ] {
            assert_eq!(parse_list(odd, "zzzzz"), RunnerList::default(), "{odd}");
        }
    }

    #[test]
    fn foreign_and_malformed_lines_are_ignored() {
        let text = format!("{FOREIGN}\nzzzzz\nzzzzz-4zz18-aaaaaaaaaaaaaaa\n broken\n{A} resting\n");
        let list = parse_list(&text, "zzzzz");
        assert!(!list.broken);
        assert_eq!(list.runners, [status(A, false)]);
    }

    #[test]
    fn duplicate_container_counts_once_as_live() {
        let list = parse_list(&format!("{A} stale\n{A}\n{A} stale\n"), "zzzzz");
        assert_eq!(list.runners, [status(A, false)]);
    }

    proptest! {
        #[test]
        fn arbitrary_text_yields_own_containers_only(text in "(?s).*") {
            let list = parse_list(&text, "zzzzz");
            for runner in list.runners {
                prop_assert!(text.contains(runner.container.as_str()));
                prop_assert!(runner.container.as_str().starts_with("zzzzz"));
            }
        }

        #[test]
        fn known_lines_parse_in_any_order(
            picks in prop::collection::vec(0_usize..6, 0..20),
        ) {
            let lines = [A.into(), format!("{B} stale"), FOREIGN.into(), "broken".into(),
                String::new(), format!("{FOREIGN} stale")];
            let text: String = picks.iter().map(|i| format!("{}\n", lines[*i])).collect();
            let list = parse_list(&text, "zzzzz");
            prop_assert_eq!(list.broken, picks.contains(&3));
            let expected: Vec<_> = [(0, status(A, false)), (1, status(B, true))]
                .into_iter()
                .filter(|(i, _)| picks.contains(i))
                .map(|(_, status)| status)
                .collect();
            prop_assert_eq!(list.runners, expected);
        }
    }
}
