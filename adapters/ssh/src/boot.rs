//! Parser for the standard output of the boot script, complete or truncated anywhere.

use crate::script::{LIST_BEGIN, LIST_END, MARK, PROBE_END, RUNNER_ABSENT, RUNNER_PRESENT};

/// Results of the boot script. A field is none if the script ended before that step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BootResults {
    /// True if the runner is installed with the right checksum.
    pub(crate) runner_present: Option<bool>,
    /// Exit status and output of the runner's `--list`, only if complete.
    pub(crate) list: Option<(u32, String)>,
    /// Exit status of the boot probe command.
    pub(crate) probe: Option<u32>,
}

impl BootResults {
    pub(crate) fn parse(stdout: &[u8]) -> Self {
        let text = String::from_utf8_lossy(stdout);
        let mut results = Self::default();
        let mut listing: Option<String> = None;
        for line in text.split_inclusive('\n') {
            // A last line without a line break may be truncated.
            let Some(line) = line.strip_suffix('\n') else {
                break;
            };
            let marker = line
                .strip_prefix(MARK)
                .and_then(|rest| rest.strip_prefix(' '));
            let Some(marker) = marker else {
                if let Some(listing) = &mut listing {
                    listing.push_str(line);
                    listing.push('\n');
                }
                continue;
            };
            let mut fields = marker.split(' ');
            let step = fields.next();
            let status = fields.next().and_then(|word| word.parse().ok());
            match (step, status) {
                (Some(RUNNER_PRESENT), _) => results.runner_present = Some(true),
                (Some(RUNNER_ABSENT), _) => results.runner_present = Some(false),
                (Some(LIST_BEGIN), _) => listing = Some(String::new()),
                (Some(LIST_END), Some(status)) => {
                    results.list = listing.take().map(|text| (status, text));
                }
                (Some(PROBE_END), Some(status)) => results.probe = Some(status),
                _ => {}
            }
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COMPLETE: &str = "longshore-boot runner-present\n\nlongshore-boot list-begin\n\
        zzzzz-dz642-aaaaaaaaaaaaaaa\nlongshore-boot list-end 0\nlongshore-boot probe-end 1\n";

    #[test]
    fn complete_output_has_all_results() {
        assert_eq!(
            BootResults::parse(COMPLETE.as_bytes()),
            BootResults {
                runner_present: Some(true),
                list: Some((0, "zzzzz-dz642-aaaaaaaaaaaaaaa\n".into())),
                probe: Some(1),
            }
        );
        let absent = BootResults::parse(b"longshore-boot runner-absent\n");
        assert_eq!(absent.runner_present, Some(false));
        assert_eq!((absent.list, absent.probe), (None, None));
    }

    #[test]
    fn truncated_output_has_no_wrong_results() {
        let complete = BootResults::parse(COMPLETE.as_bytes());
        for end in 0..COMPLETE.len() {
            let part = BootResults::parse(&COMPLETE.as_bytes()[..end]);
            for known in [
                part.list.is_none() || part.list == complete.list,
                part.probe.is_none() || part.probe == complete.probe,
                part.runner_present.is_none() || part.runner_present == complete.runner_present,
            ] {
                assert!(known, "{part:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_parsed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let results = BootResults::parse(&bytes);
            prop_assert!(results.list.is_none() || bytes.len() > 30);
        }
    }
}
