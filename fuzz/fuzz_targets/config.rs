//! Any text is a configuration or a list of what is wrong with it.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = longshore_cluster_config::load(text);
});
