//! What the boot script's standard output says, whole or cut off anywhere.

use crate::script::{LIST_BEGIN, LIST_END, MARK, PROBE_END, RUNNER_ABSENT, RUNNER_PRESENT};

/// The answers of the boot script; absent where it did not get so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BootAnswer {
    /// Whether the runner is in place.
    pub(crate) runner_present: Option<bool>,
    /// The runner's list, only if it came whole, with its exit status.
    pub(crate) list: Option<(u32, String)>,
    /// The boot probe's exit status.
    pub(crate) probe: Option<u32>,
}

impl BootAnswer {
    pub(crate) fn parse(stdout: &[u8]) -> Self {
        let text = String::from_utf8_lossy(stdout);
        let mut answer = Self::default();
        let mut listing: Option<String> = None;
        for line in text.split_inclusive('\n') {
            // A last line without its end may be half a line.
            let Some(line) = line.strip_suffix('\n') else {
                break;
            };
            let mark = line
                .strip_prefix(MARK)
                .and_then(|rest| rest.strip_prefix(' '));
            let Some(mark) = mark else {
                if let Some(listing) = &mut listing {
                    listing.push_str(line);
                    listing.push('\n');
                }
                continue;
            };
            let mut words = mark.split(' ');
            let what = words.next();
            let status = words.next().and_then(|word| word.parse().ok());
            match (what, status) {
                (Some(RUNNER_PRESENT), _) => answer.runner_present = Some(true),
                (Some(RUNNER_ABSENT), _) => answer.runner_present = Some(false),
                (Some(LIST_BEGIN), _) => listing = Some(String::new()),
                (Some(LIST_END), Some(status)) => {
                    answer.list = listing.take().map(|text| (status, text));
                }
                (Some(PROBE_END), Some(status)) => answer.probe = Some(status),
                _ => {}
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = "longshore-boot runner-present\n\nlongshore-boot list-begin\n\
        zzzzz-dz642-aaaaaaaaaaaaaaa\nlongshore-boot list-end 0\nlongshore-boot probe-end 1\n";

    #[test]
    fn reads_all_three_answers() {
        assert_eq!(
            BootAnswer::parse(WHOLE.as_bytes()),
            BootAnswer {
                runner_present: Some(true),
                list: Some((0, "zzzzz-dz642-aaaaaaaaaaaaaaa\n".into())),
                probe: Some(1),
            }
        );
        let absent = BootAnswer::parse(b"longshore-boot runner-absent\n");
        assert_eq!(absent.runner_present, Some(false));
        assert_eq!((absent.list, absent.probe), (None, None));
    }

    #[test]
    fn cut_off_anywhere_it_says_nothing_wrong() {
        let whole = BootAnswer::parse(WHOLE.as_bytes());
        for end in 0..WHOLE.len() {
            let part = BootAnswer::parse(&WHOLE.as_bytes()[..end]);
            for known in [
                part.list.is_none() || part.list == whole.list,
                part.probe.is_none() || part.probe == whole.probe,
                part.runner_present.is_none() || part.runner_present == whole.runner_present,
            ] {
                assert!(known, "{part:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let answer = BootAnswer::parse(&bytes);
            prop_assert!(answer.list.is_none() || bytes.len() > 30);
        }
    }
}
