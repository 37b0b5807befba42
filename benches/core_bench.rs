//! Benchmarks of the core: `cargo bench -p longshore-benches`.
#![allow(missing_docs, reason = "the macros of criterion make public items")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use longshore_benches::{Bench, Busy, Size, containers, wanted};
use longshore_sim::reference_placement::ReferencePlacement;

/// One answer of an idle-state probe, with the resulting commands.
fn steady_probe(c: &mut Criterion) {
    let mut group = c.benchmark_group("steady_probe");
    for instances in [100, 1000, 10_000] {
        let size = Size {
            instances,
            containers: 0,
            shapes: 1,
            types: 10,
        };
        let mut bench = Bench::with_instances(size);
        group.bench_function(BenchmarkId::from_parameter(instances), |b| {
            b.iter(|| {
                let probe = bench.next_probe();
                bench.answer_probe(&probe, &[]);
                black_box(bench.drain_to_probe());
            });
        });
    }
    group.finish();
}

/// First placement pass with a full queue and idle instances.
fn place_from_scratch(c: &mut Criterion) {
    let mut group = c.benchmark_group("place_from_scratch");
    group.sample_size(10);
    for (instances, queued, shapes) in [
        (1000, 1000, 20),
        (1000, 10_000, 20),
        (10_000, 100_000, 20),
        (1000, 20_000, 20_000),
    ] {
        let size = Size {
            instances,
            containers: queued,
            shapes,
            types: 400,
        };
        let mut bench = Bench::with_instances(size);
        bench.queue_shows(containers(size));
        let name = format!("{queued} containers of {shapes} classes on {instances} instances");
        group.bench_function(name, |b| {
            b.iter_batched(
                || bench.clone(),
                |mut bench| {
                    black_box(bench.drain_to_probe());
                    bench
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// End of one container with all instances busy and 100,000 waiting containers: the following pass
/// and the resulting commands.
fn place_after_one_change(c: &mut Criterion) {
    let mut group = c.benchmark_group("place_after_one_change");
    group.sample_size(10);
    for (instances, queued) in [(100, 1000), (1000, 10_000), (10_000, 100_000)] {
        let size = Size {
            instances,
            containers: queued,
            shapes: 20,
            types: 400,
        };
        let mut bench = Bench::with_instances(size);
        bench.queue_shows(containers(size));
        let busy = Busy::of(&mut bench);
        let name = format!("{queued} containers of 20 shapes on {instances} busy instances");
        group.bench_function(name, |b| {
            b.iter_custom(|changes| {
                let mut took = Duration::ZERO;
                let mut left = changes;
                while left > 0 {
                    // Each change consumes a container.
                    let some = left.min(100);
                    let (mut bench, mut busy) = (bench.clone(), busy.clone());
                    let begin = Instant::now();
                    for _ in 0..some {
                        busy.one_ends(&mut bench);
                    }
                    took += begin.elapsed();
                    left -= some;
                }
                took
            });
        });
    }
    group.finish();
}

/// The same placement by the reference implementation without indexes, for comparison.
fn place_naively(c: &mut Criterion) {
    let mut group = c.benchmark_group("place_naively");
    group.sample_size(10);
    let size = Size {
        instances: 1000,
        containers: 10_000,
        shapes: 20,
        types: 400,
    };
    let mut bench = Bench::with_instances(size);
    bench.queue_shows(containers(size));
    let wanted = wanted(&bench, size);
    let config = bench.core.config().clone();
    let naive = ReferencePlacement::of(&bench.core.view(), &config);
    let name = "10000 containers of 20 shapes on 1000 instances";
    group.bench_function(name, |b| {
        b.iter_batched(
            || naive.clone(),
            |mut naive| black_box(naive.place(&wanted)),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(
    benches,
    steady_probe,
    place_after_one_change,
    place_from_scratch,
    place_naively
);
criterion_main!(benches);
