//! Any text is parsed into a configuration or a list of errors, without a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = longshore_cluster_config::load(text);
});
