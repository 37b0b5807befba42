//! Fuzz target: any text is either a configuration or a list of errors.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = longshore_cluster_config::load(text);
});
