//! Settings drawn around the configuration's defaults: intervals, timeouts, probe rate and sizing.
//! All combinations are valid.

use std::time::Duration;

use longshore_core::config::{Config, Intervals, Rate, Sizing, Timeouts};
use longshore_core::resources::MIB;

use crate::world::rng::Rng;

/// Draws each setting; most keep the default. A setting with a random stream of its own never
/// shifts the draws of another setting.
pub(crate) fn draw_settings(seed: u64, config: &mut Config) {
    draw_near(&mut Rng::new(seed, "knobs"), config);
    draw_far(seed, &mut config.intervals, &mut config.timeouts);
    draw_sizing(seed, &mut config.sizing);
    let mut scarce = Rng::new(seed, "knobs: MaxProbesPerSecond");
    if scarce.one_in(3) {
        config.limits.probes = scarce_probes(&mut scarce, config);
    }
}

/// Draws settings again, for a configuration change during the run.
pub(crate) fn redraw_settings(rng: &mut Rng, config: &mut Config) {
    if rng.one_in(3) {
        config.intervals.probe = rng.secs(2, 60);
    }
    if rng.one_in(3) {
        config.limits.probes = if rng.one_in(2) {
            scarce_probes(rng, config)
        } else {
            None
        };
    }
    if rng.one_in(3) {
        config.intervals.sync = rng.secs(5, 300);
    }
    if rng.one_in(3) {
        config.timeouts.probe = rng.secs(60, 1200);
    }
    if rng.one_in(3) {
        config.timeouts.booting = rng.secs(400, 1800);
    }
}

/// Draws settings near the default, each in half of the runs. The list delay and the create
/// duration bound some from below.
fn draw_near(rng: &mut Rng, config: &mut Config) {
    let mut draw = |knob: &mut Duration, low: u64, high: u64| {
        let drawn = rng.secs(low, high);
        if rng.one_in(2) {
            *knob = drawn;
        }
    };
    let intervals = &mut config.intervals;
    draw(&mut intervals.poll, 1, 60);
    draw(&mut intervals.sync, 5, 180);
    draw(&mut intervals.probe, 2, 20);
    let timeouts = &mut config.timeouts;
    draw(&mut timeouts.shutdown, 2, 120);
    draw(&mut timeouts.signal, 1, 30);
    draw(&mut timeouts.kill, 5, 120);
    draw(&mut timeouts.stale_lock, 10, 600);
    draw(&mut timeouts.create_ambiguous, 200, 900);
    draw(&mut timeouts.disappear_grace, 60, 300);
    draw(&mut timeouts.queue_answer, 10, 120);
    draw(&mut timeouts.cloud_answer, 20, 300);
    draw(&mut timeouts.vm_answer, 5, 60);
    if rng.one_in(3) {
        // Allows every VM twice the configured probe rate, so that no VM becomes unresponsive for
        // lack of probes.
        let vms = u64::from(config.limits.instances.unwrap_or(64));
        let needed = 2 * vms / config.intervals.probe.as_secs().max(1) + 2;
        let rate = u32::try_from(needed + rng.below(needed)).unwrap_or(u32::MAX);
        config.limits.probes = Rate::per_second(rate);
    }
}

/// Draws settings well above the default, each in one run of six.
fn draw_far(seed: u64, intervals: &mut Intervals, timeouts: &mut Timeouts) {
    let draw = |key: &str, knob: &mut Duration, low: u64, high: u64| {
        let mut rng = Rng::new(seed, &format!("knobs: {key}"));
        let drawn = rng.secs(low, high);
        if rng.one_in(6) {
            *knob = drawn;
        }
    };
    draw("PollInterval", &mut intervals.poll, 60, 300);
    draw("SyncInterval", &mut intervals.sync, 180, 600);
    draw("ProbeInterval", &mut intervals.probe, 20, 120);
    draw("TimeoutIdle", &mut timeouts.idle, 300, 3600);
    draw("TimeoutBooting", &mut timeouts.booting, 900, 3600);
    draw("TimeoutProbe", &mut timeouts.probe, 900, 3600);
    draw("TimeoutShutdown", &mut timeouts.shutdown, 120, 600);
    draw("TimeoutSignal", &mut timeouts.signal, 30, 120);
    draw("TimeoutTERM", &mut timeouts.term, 180, 900);
    draw("TimeoutKILL", &mut timeouts.kill, 120, 600);
    draw("TimeoutStaleRunLock", &mut timeouts.stale_run_lock, 60, 600);
    draw("StaleLockTimeout", &mut timeouts.stale_lock, 600, 1800);
    let create_ambiguous = &mut timeouts.create_ambiguous;
    draw("TimeoutCreateAmbiguous", create_ambiguous, 900, 3600);
    draw("DisappearGrace", &mut timeouts.disappear_grace, 300, 900);
    draw("answers of the queue", &mut timeouts.queue_answer, 120, 300);
    draw("answers of the cloud", &mut timeouts.cloud_answer, 300, 600);
    draw("answers of VMs", &mut timeouts.vm_answer, 60, 180);
}

/// Draws the computation of needs and the choice of types.
fn draw_sizing(seed: u64, sizing: &mut Sizing) {
    let draw = |key: &str, low: u64, high: u64| {
        let mut rng = Rng::new(seed, &format!("knobs: {key}"));
        let drawn = rng.between(low, high);
        rng.one_in(3).then_some(drawn)
    };
    if let Some(mib) = draw("ReserveExtraRAM", 0, 1024) {
        sizing.reserve_extra_ram = mib * MIB;
    }
    if let Some(buffers) = draw("LocalKeepBlobBuffersPerVCPU", 0, 4) {
        sizing.keep_buffers_per_vcpu = u32::try_from(buffers).unwrap_or(1);
    }
    if let Some(percent) = draw("MaximumPriceFactor", 100, 300) {
        sizing.max_price_factor_ppm = percent * 10_000;
    }
}

/// Draws a probe rate between a quarter and twice the need of the maximum number of VMs, so that
/// probes often wait.
fn scarce_probes(rng: &mut Rng, config: &Config) -> Option<Rate> {
    let vms = u64::from(config.limits.instances.unwrap_or(64));
    let interval = u64::try_from(config.intervals.probe.as_millis()).unwrap_or(u64::MAX);
    let needed = vms * 1_000_000_000 / interval.max(1);
    Rate::of_millionths((needed * rng.between(25, 200) / 100).max(1))
}
