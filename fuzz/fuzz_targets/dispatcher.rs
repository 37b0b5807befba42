//! No sequence of inputs makes the core panic. The text has one JSON input per line, at intervals of
//! one second. Answers refer to commands by id.
#![no_main]

use std::time::Duration;

use longshore_core::Dispatcher;
use longshore_core::config::Config;
use longshore_core::input::Input;
use longshore_core::time::Timestamp;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut now = Timestamp::from_nanos(1);
    let mut core = Dispatcher::new(Config::default(), [0; 32], now);
    core.handle_input(now, Input::Leadership { held: true });
    for line in text.lines() {
        now = now + Duration::from_secs(1);
        if let Ok(input) = serde_json::from_str(line) {
            core.handle_input(now, input);
        }
        core.handle_timeout(now);
        while core.poll_command().is_some() {}
        while core.poll_event().is_some() {}
    }
    assert!(core.view().containers().len() <= 1 << 20);
});
