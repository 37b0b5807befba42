//! Memory use of the core, and allocations in the steady state.

use allocation_counter::{AllocationInfo, measure};
use longshore_benches::{Bench, Size, containers};
use longshore_core::command::Action;

const MEGABYTE: i64 = 1_000_000;

#[test]
fn full_core_takes_less_than_300_mb() {
    let size = Size {
        instances: 10_000,
        containers: 100_000,
        shapes: 20,
        types: 400,
    };
    let mut bench = None;
    let empty = measure(|| {
        bench = Some(Bench::with_instances(size));
    });
    let mut bench = bench.expect("just made");
    let full = measure(|| {
        bench.queue_shows(containers(size));
        bench.drain_to_probe();
    });
    let kept = empty.bytes_current + full.bytes_current;
    let instances = empty.bytes_current / i64::from(size.instances);
    let containers = full.bytes_current / i64::from(size.containers);
    println!(
        "10,000 instances and 100,000 containers: {:.1} MB ({instances} bytes an instance, \
         {containers} bytes a container), at most {:.1} MB on the way",
        mb(kept),
        mb(empty.bytes_current + i64::try_from(full.bytes_max).expect("it is less")),
    );
    assert!(kept < 300 * MEGABYTE, "{kept} bytes");
    // A lower bound, as a check of the measurement.
    assert!(kept > 10 * MEGABYTE, "{kept} bytes");
}

#[test]
fn steady_probe_allocates_nothing() {
    let size = Size {
        instances: 1000,
        containers: 0,
        shapes: 1,
        types: 10,
    };
    let mut bench = Bench::with_instances(size);
    // Enough time for all buffers to reach their size: about 60 probes of each instance.
    let mut probes = 0;
    while probes < 60 * size.instances {
        probes += u32::from(step(&mut bench).is_some());
    }
    let mut asked = AllocationInfo::default();
    probes = 0;
    while probes < 10 * size.instances {
        if let Some(more) = step(&mut bench) {
            asked += more;
            probes += 1;
        }
    }
    assert_eq!(asked.count_total, 0, "in {probes} probes: {asked:?}");
    let found = measure(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(found.count_total, 1, "allocations are counted");
}

/// Handles the next due command. For a probe, returns the allocations of the command and of the
/// answer.
fn step(bench: &mut Bench) -> Option<AllocationInfo> {
    let (at, _) = bench.core.poll_timeout().expect("a timer is always due");
    bench.now = bench.now.max(at);
    let mut probe = None;
    let mut others = Vec::new();
    let sent = measure(|| {
        bench.core.handle_timeout(bench.now);
        while let Some(command) = bench.core.poll_command() {
            match command.action {
                Action::Vm { .. } => probe = Some(command),
                _ => others.push(command),
            }
        }
        while bench.core.poll_event().is_some() {}
    });
    let only_a_probe = others.is_empty();
    for look in others {
        bench.answer_look(&look);
        bench.drain_to_probe();
    }
    let probe = probe?;
    let mut asked = sent;
    asked += measure(|| {
        bench.answer_probe(&probe, &[]);
        bench.drain_to_probe();
    });
    only_a_probe.then_some(asked)
}

fn mb(bytes: i64) -> f64 {
    let kilobytes = u32::try_from(bytes / 1000).expect("less than 4 TB");
    f64::from(kilobytes) / 1000.0
}
