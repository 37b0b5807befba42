//! Any output of a VM is parsed as a list of runners, without a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let list = longshore_ssh::parse_list(text, "zzzzz");
    assert!(list.runners.len() <= text.lines().count());
});
